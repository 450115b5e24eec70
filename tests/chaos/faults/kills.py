"""Processes that die: by kill -9, with and without their children, and by a SIGTERM that nobody asked for."""

from __future__ import annotations

import signal
import time

from fedlora.processes.living import Process, is_alive
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

UPLOAD_BYTES = 30_000  # of about 70 kB: see `drill.HIDDEN`
ALONE_S = 20.0
"""Nobody starts a supervisor again for so long."""


def kill_executor_training(scene: Scene) -> Seen:
    hit = scene.wait_charged()
    return killed(scene, scene.child(scene.target, "executor"), at_its_moment=hit)


def kill_agent_training(scene: Scene) -> Seen:
    """The whole agent; its administrator's systemd starts it again."""
    hit = scene.wait_charged()
    return restarted(scene, scene.target, at_its_moment=hit)


def kill_agent_uploading(scene: Scene) -> Seen:
    """At the slow site: part of its update is on the way, the rest never comes."""
    hit = scene.wait_uploading(least_bytes=UPLOAD_BYTES)
    return restarted(scene, scene.slow, at_its_moment=hit)


def kill_supernode(scene: Scene) -> Seen:
    return killed(scene, scene.child(scene.target, "supernode"))


def kill_serverapp_aggregating(scene: Scene) -> Seen:
    hit = scene.wait_answered()
    return killed(scene, scene.serverapp(), at_its_moment=hit)


def kill_superlink(scene: Scene) -> Seen:
    return killed(scene, scene.child("server", "superlink"))


def kill_server_executor(scene: Scene) -> Seen:
    return killed(scene, scene.child("server", "executor"))


def kill_coordinator(scene: Scene) -> Seen:
    return restarted(scene, "server")


def leave_site_alone(scene: Scene) -> Seen:
    return left_alone(scene, scene.target)


def leave_coordinator_alone(scene: Scene) -> Seen:
    return left_alone(scene, "server")


def orphan_supernode(scene: Scene) -> Seen:
    return orphaned(scene, scene.target, "supernode")


def orphan_superlink(scene: Scene) -> Seen:
    return orphaned(scene, "server", "superlink")


def terminate_executor_training(scene: Scene) -> Seen:
    hit = scene.wait_charged()
    return killed(scene, scene.child(scene.target, "executor"), number=signal.SIGTERM, at_its_moment=hit)


def terminate_agent_training(scene: Scene) -> Seen:
    """As `systemctl restart` does."""
    hit = scene.wait_charged()
    return stopped_and_started(scene, scene.target, at_its_moment=hit)


def terminate_coordinator_aggregating(scene: Scene) -> Seen:
    hit = scene.wait_answered()
    return stopped_and_started(scene, "server", at_its_moment=hit)


def terminate_serverapp(scene: Scene) -> Seen:
    return killed(scene, scene.serverapp(), number=signal.SIGTERM)


def killed(
    scene: Scene, process: Process, *, number: signal.Signals = signal.SIGKILL, at_its_moment: bool = True
) -> Seen:
    began = time.monotonic()
    gone = scene.end(process, number)
    said = f"gone after {time.monotonic() - began:.1f} s" if gone else f"still there after {number.name}"
    return Seen(said, gone, at_its_moment)


def restarted(scene: Scene, name: str, *, at_its_moment: bool = True) -> Seen:
    """kill -9 and start again, as systemd would."""
    before, began = scene.all_of(name), time.monotonic()
    scene.deployment.kill(name)
    scene.deployment.start(name)
    gone = scene.wait_gone(before)
    said = f"its {len(before)} processes gone after {time.monotonic() - began:.1f} s"
    return Seen(said if gone else f"{alive(before)} of its processes are still there", not is_alive(before[0]),
                at_its_moment)  # fmt: skip


def left_alone(scene: Scene, name: str) -> Seen:
    """kill -9 of the supervisor: its children have to end by themselves."""
    before, began = scene.all_of(name), time.monotonic()
    scene.deployment.kill(name)
    gone = scene.wait_gone(before)
    said = f"its {len(before) - 1} children gone after {time.monotonic() - began:.1f} s"
    time.sleep(max(0.0, ALONE_S - (time.monotonic() - began)))
    scene.deployment.start(name)
    return Seen(said if gone else f"{alive(before)} of its children did not end", not is_alive(before[0]))


def orphaned(scene: Scene, name: str, child: str) -> Seen:
    """kill -9 of the supervisor while a child is stopped: it cannot hear the kernel's SIGTERM, and keeps its port."""
    frozen = scene.child(name, child)
    with scene.holds.stopped(frozen.pid):
        scene.deployment.kill(name)
        time.sleep(2.0)
        left = is_alive(frozen)
        began = time.monotonic()
        scene.deployment.start(name)
        ended = scene.wait_gone([frozen])
    if not left:
        return Seen("it ended with its supervisor", happened=False)
    said = f"left behind, ended by the next supervisor after {time.monotonic() - began:.1f} s"
    return Seen(said if ended else "left behind, and not ended by the next supervisor")


def stopped_and_started(scene: Scene, name: str, *, at_its_moment: bool) -> Seen:
    process, began = scene.deployment.processes[name], time.monotonic()
    process.send_signal(signal.SIGTERM)
    status = process.wait(2 * scene.moment_s)
    said = f"status {status} after {time.monotonic() - began:.1f} s"
    scene.deployment.start(name)
    return Seen(said, happened=True, at_its_moment=at_its_moment)


def alive(processes: list[Process]) -> int:
    return sum(map(is_alive, processes))
