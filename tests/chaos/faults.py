"""What goes wrong: each fault is done to a running deployment, and says what it did."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.certificates import issue_server_certificate
from simulations.deployment import Deployment
from tests.chaos.link import Link


@dataclass(frozen=True)
class Scene:
    """Where faults happen. `target` is the site that suffers; `slow` sits behind a link of 1 Mbit/s."""

    deployment: Deployment
    run: Path
    link: Link
    target: str
    slow: str


Fault = Callable[[Scene], None]


def kill_executor(scene: Scene) -> None:
    scene.deployment.kill_child(scene.target, "executor")


def kill_supernode(scene: Scene) -> None:
    scene.deployment.kill_child(scene.target, "supernode")


def kill_agent(scene: Scene) -> None:
    """The whole agent; its administrator's systemd starts it again."""
    scene.deployment.kill(scene.target)
    scene.deployment.start(scene.target)


def kill_serverapp(scene: Scene) -> None:
    pid = scene.deployment.serverapp_pid(scene.run)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def kill_superlink(scene: Scene) -> None:
    scene.deployment.kill_child("server", "superlink")


def kill_server_executor(scene: Scene) -> None:
    scene.deployment.kill_child("server", "executor")


def kill_coordinator(scene: Scene) -> None:
    scene.deployment.kill("server")
    time.sleep(1)
    scene.deployment.start("server")


def freeze_executor(scene: Scene) -> None:
    """Ten seconds of silence: its answer is late, or its heartbeat is missed."""
    pid = scene.deployment.health(scene.target).get("executor", {}).get("pid")
    if pid is None:
        return
    os.kill(int(pid), signal.SIGSTOP)
    time.sleep(10)
    os.kill(int(pid), signal.SIGCONT)


def cut_link(scene: Scene) -> None:
    """Ten seconds without a network at the slow site."""
    scene.link.cut()
    time.sleep(10)
    scene.link.heal()


def fill_servers_disk(scene: Scene) -> None:
    """The ServerApp can write no file above 4 KiB any more: its next checkpoint fails as on a full disk."""
    pid = scene.deployment.serverapp_pid(scene.run)
    if pid is not None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, 4096))


def fill_sites_disk(scene: Scene) -> None:
    """The executor can write no file above 64 bytes: the ledger cannot be charged, so nothing may be trained."""
    pid = scene.deployment.health(scene.target).get("executor", {}).get("pid")
    if pid is None:
        return
    resource.prlimit(int(pid), resource.RLIMIT_FSIZE, (64, 64))
    time.sleep(8)
    scene.deployment.kill_child(scene.target, "executor")  # room again, with the next process


def expire_certificate(scene: Scene) -> None:
    """The server certificate runs out, and is renewed ten seconds later."""
    pki = scene.deployment.settings.pki
    issue_server_certificate(pki, hosts=["127.0.0.1"], days=-1)
    time.sleep(10)
    issue_server_certificate(pki, hosts=["127.0.0.1"])


FAULTS: dict[str, Fault] = {
    "kill -9 the executor": kill_executor,
    "kill -9 the ServerApp": kill_serverapp,
    "kill -9 the SuperNode": kill_supernode,
    "kill -9 the SuperLink": kill_superlink,
    "freeze the executor for 10 s": freeze_executor,
    "kill -9 the whole agent": kill_agent,
    "cut the slow site's link for 10 s": cut_link,
    "kill -9 the coordinator's executor": kill_server_executor,
    "full disk at the coordinator": fill_servers_disk,
    "full disk at a site": fill_sites_disk,
    "kill -9 the whole coordinator": kill_coordinator,
    "expired server certificate": expire_certificate,
}
