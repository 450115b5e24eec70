"""What goes wrong: each fault is done to a running deployment, and returns whether it hit the moment it waits for."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable

from client.enroll import accept, ask_with_new_key
from fedlora.deployment import flower_environment
from server.certificates import issue_server_certificate
from server.provision import approve, read_registry, revoke
from tests.chaos.scene import Scene, wait_for

Fault = Callable[[Scene], bool]
UPLOAD_BYTES = 30_000  # of about 70 kB: see `drill.RECIPE`
HOUR_S, DAY_S = 3600.0, 86_400.0


def kill_executor_training(scene: Scene) -> bool:
    hit = scene.wait_charged()
    scene.deployment.kill_child(scene.target, "executor")
    return hit


def kill_agent_training(scene: Scene) -> bool:
    """The whole agent; its administrator's systemd starts it again."""
    hit = scene.wait_charged()
    scene.restart(scene.target)
    return hit


def kill_agent_uploading(scene: Scene) -> bool:
    """At the slow site: part of its update is on the way, the rest never comes."""
    hit = scene.wait_uploading(least_bytes=UPLOAD_BYTES)
    scene.restart(scene.slow)
    return hit


def kill_supernode(scene: Scene) -> bool:
    scene.deployment.kill_child(scene.target, "supernode")
    return True


def kill_serverapp_aggregating(scene: Scene) -> bool:
    hit = scene.wait_answered()
    return signal_serverapp(scene, signal.SIGKILL) and hit


def kill_superlink(scene: Scene) -> bool:
    scene.deployment.kill_child("server", "superlink")
    return True


def kill_server_executor(scene: Scene) -> bool:
    scene.deployment.kill_child("server", "executor")
    return True


def kill_coordinator(scene: Scene) -> bool:
    scene.restart("server")
    return True


def answer_late(scene: Scene) -> bool:
    """It is frozen while it trains, for longer than a round waits for those who are not there."""
    hit = scene.wait_charged()
    pid = scene.executor_pid()
    if pid is None:
        return False
    os.kill(pid, signal.SIGSTOP)
    time.sleep(12)
    os.kill(pid, signal.SIGCONT)
    return hit


def answer_twice(scene: Scene) -> bool:
    """For fifteen seconds the site's executor is one that sends every answer twice."""
    pid = scene.executor_pid()
    if pid is None:
        return False
    folder = scene.deployment.folder / scene.target
    address = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")[-2].decode()  # noqa: SIM115, PTH123
    extra = {"FEDLORA_SITE": str(folder / "client.yaml"), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **flower_environment(folder / "flower" / "twice", extra)}
    os.kill(pid, signal.SIGSTOP)
    try:
        with (folder / "logs" / "twice.log").open("ab") as log:
            twice = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.answer_twice", address], env=environment, stdout=log, stderr=log
            )
        done = folder / "logs" / "twice.log"
        hit = wait_for(lambda: done.read_bytes().count(b"answered twice") >= 2)
        twice.kill()
        twice.wait()
    finally:
        os.kill(pid, signal.SIGCONT)
    return hit


def cut_link(scene: Scene) -> bool:
    """Ten seconds without a network at the slow site."""
    scene.link.cut()
    time.sleep(10)
    scene.link.heal()
    return True


def fill_servers_disk(scene: Scene) -> bool:
    """The ServerApp can write no file above 4 KiB any more: its next checkpoint fails as on a full disk."""
    pid = scene.serverapp_pid()
    if pid is None:
        return False
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, 4096))
    return True


def fill_sites_disk(scene: Scene) -> bool:
    """The executor can write no file above 64 bytes: the ledger cannot be charged, so nothing may be trained."""
    pid = scene.executor_pid()
    if pid is None:
        return False
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (64, 64))
    time.sleep(8)
    scene.deployment.kill_child(scene.target, "executor")  # room again, with the next process
    return True


def lock_store(scene: Scene) -> bool:
    """Ten seconds in which the SuperLink cannot write its database."""
    with sqlite3.connect(scene.deployment.settings.folder / "superlink.db", timeout=10) as store:
        store.execute("BEGIN EXCLUSIVE")
        time.sleep(10)
    store.close()
    return True


def lose_store(scene: Scene) -> bool:
    """The SuperLink's database is gone, and the SuperLink with it: it knows neither sites nor runs any more."""
    for path in scene.deployment.settings.folder.glob("superlink.db*"):
        path.unlink()
    scene.deployment.kill_child("server", "superlink")
    return True


def damage_checkpoint(scene: Scene) -> bool:
    """One bit of the newest checkpoint turns while the ServerApp is stopped, which then dies."""
    if not signal_serverapp(scene, signal.SIGSTOP):
        return False
    with (scene.run / "checkpoint.safetensors").open("r+b") as file:
        file.seek(-200, os.SEEK_END)
        turned = file.read(1)[0] ^ 1
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([turned]))
    return signal_serverapp(scene, signal.SIGKILL)


def expire_certificate(scene: Scene) -> bool:
    """The server certificate runs out, and is renewed ten seconds later."""
    pki = scene.deployment.settings.pki
    issue_server_certificate(pki, hosts=["127.0.0.1"], days=-1)
    time.sleep(10)
    issue_server_certificate(pki, hosts=["127.0.0.1"])
    return True


def revoke_site(scene: Scene) -> bool:
    """The site is cut off in the middle of the run; then it enrols again with a new key."""
    settings, folder = scene.deployment.settings, scene.deployment.folder / scene.target
    revoke(settings, scene.target)
    gone = wait_for(lambda: read_registry(settings).sites[scene.target].cut_off == ())
    time.sleep(5)
    accept(folder, approve(settings, ask_with_new_key(folder, site=scene.target)))
    scene.restart(scene.target)
    return gone


def site_clock_ahead(scene: Scene) -> bool:
    """Fifteen seconds two hours ahead: its signatures are from the future."""
    return skew(scene, scene.target, 2 * HOUR_S)


def site_clock_behind(scene: Scene) -> bool:
    """Fifteen seconds two days behind: to it the coordinator's certificate is not valid yet."""
    return skew(scene, scene.target, -2 * DAY_S)


def server_clock_ahead(scene: Scene) -> bool:
    """Fifteen seconds two hours ahead, then back: everybody's signatures are old, all heartbeats overdue."""
    return skew(scene, "server", 2 * HOUR_S)


def skew(scene: Scene, name: str, ahead_s: float) -> bool:
    scene.clocks.set(name, ahead_s=ahead_s)
    time.sleep(15)
    scene.clocks.set(name, ahead_s=0.0)
    return True


def signal_serverapp(scene: Scene, number: signal.Signals) -> bool:
    pid = scene.serverapp_pid()
    if pid is None:
        return False
    os.kill(pid, number)
    return True


FAULTS: dict[str, Fault] = {
    "executor killed while it trains": kill_executor_training,
    "ServerApp killed while it aggregates": kill_serverapp_aggregating,
    "SuperNode killed": kill_supernode,
    "SuperLink killed": kill_superlink,
    "late answer (frozen for 12 s)": answer_late,
    "agent killed while it uploads": kill_agent_uploading,
    "duplicate answers": answer_twice,
    "corrupted checkpoint": damage_checkpoint,
    "full disk at a site": fill_sites_disk,
    "site's clock two hours ahead": site_clock_ahead,
    "agent killed while it trains": kill_agent_training,
    "slow site's link cut for 10 s": cut_link,
    "revoked site, enrolled again": revoke_site,
    "full disk at the coordinator": fill_servers_disk,
    "store locked for 10 s": lock_store,
    "coordinator's executor killed": kill_server_executor,
    "site's clock two days behind": site_clock_behind,
    "whole coordinator killed": kill_coordinator,
    "expired server certificate": expire_certificate,
    "store lost": lose_store,
    "coordinator's clock two hours ahead, then back": server_clock_ahead,
}
AT_SLOW = {"agent killed while it uploads", "slow site's link cut for 10 s"}
AT_SERVER = {name for name in FAULTS if "ServerApp" in name or "SuperLink" in name or "coordinator" in name} | {
    "corrupted checkpoint", "store locked for 10 s", "store lost", "expired server certificate",
}  # fmt: skip
