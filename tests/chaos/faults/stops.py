"""Processes that are stopped (SIGSTOP): as a stalled disk, a debugger or a suspended machine would."""

from __future__ import annotations

import time

from fedlora.processes.living import Process, is_alive
from server.runs.submissions import completed_rounds
from tests.chaos.holds import is_stopped
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

LATE_S = 12.0
"""Longer than a round waits for those who are not there: see `drill.recipe`."""
HEARTBEAT_S = 65.0
"""Longer than a node's and a ClientApp's heartbeat, 60 s."""
START_S = 60
"""`patience.start_s` of the drill's coordinator: Flower fails a ServerApp after twice as long without a heartbeat."""
SERVERAPP_S = 2 * START_S + 10.0
LOOK_S = 0.5


def answer_late(scene: Scene) -> Seen:
    """It is stopped while it trains."""
    hit = scene.wait_charged()
    return stopped(scene, scene.child(scene.target, "executor"), seconds=LATE_S, at_its_moment=hit)


def stop_executor_training(scene: Scene) -> Seen:
    hit = scene.wait_charged()
    return stopped(scene, scene.child(scene.target, "executor"), seconds=HEARTBEAT_S, at_its_moment=hit)


def stop_supernode(scene: Scene) -> Seen:
    return stopped(scene, scene.child(scene.target, "supernode"), seconds=HEARTBEAT_S)


def stop_agent(scene: Scene) -> Seen:
    return stopped(scene, scene.supervisor(scene.target), seconds=HEARTBEAT_S)


def stop_superlink(scene: Scene) -> Seen:
    return stopped(scene, scene.child("server", "superlink"), seconds=HEARTBEAT_S)


def stop_serverapp(scene: Scene) -> Seen:
    return stopped(scene, scene.serverapp(), seconds=SERVERAPP_S)


def stop_server_executor(scene: Scene) -> Seen:
    return stopped(scene, scene.child("server", "executor"), seconds=HEARTBEAT_S)


def stop_coordinator(scene: Scene) -> Seen:
    """Its supervisor alone."""
    return stopped(scene, scene.supervisor("server"), seconds=HEARTBEAT_S)


def stopped(scene: Scene, process: Process, *, seconds: float, at_its_moment: bool = True) -> Seen:
    """Looked at all the time: whether it is stopped, and what the site or the coordinator says of it."""
    before, began, looks, held = completed_rounds(scene.run), time.monotonic(), 0, 0
    with scene.holds.stopped(process.pid):
        while (for_s := time.monotonic() - began) < seconds:
            time.sleep(LOOK_S)
            if not is_alive(process):
                return Seen(f"stopped, and ended by its supervisor after {for_s:.0f} s", held > 0, at_its_moment)
            looks, held = looks + 1, held + is_stopped(process.pid)
        rounds = completed_rounds(scene.run) - before
    return Seen(f"stopped for {for_s:.0f} s; {rounds} rounds meanwhile", held == looks, at_its_moment)
