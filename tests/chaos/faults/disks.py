"""Full disks: a limit on the size of the process's files, so that a write fails as it does on a full disk."""

from __future__ import annotations

import resource
import signal
import time

from fedlora.deployment.environment import split_address
from fedlora.processes.living import is_alive
from server.trust.certificates import days_left, issue_server_certificate
from server.trust.renewal import RENEW_DAYS
from tests.chaos.limits import limited
from tests.chaos.report import Seen
from tests.chaos.scene import Scene
from tests.chaos.slowness import tree

DUE_DAYS = 10


def fill_serverapps_disk(scene: Scene) -> Seen:
    """The ServerApp can write no file above 4 KiB any more: its next checkpoint fails."""
    process, began = scene.serverapp(), time.monotonic()
    with limited(lambda: [process.pid], resource.RLIMIT_FSIZE, 4096):
        gone = scene.wait_gone([process])
    said = f"the ServerApp ended after {time.monotonic() - began:.1f} s" if gone else "the ServerApp went on"
    return Seen(said, gone)


def fill_sites_disk(scene: Scene) -> Seen:
    """The executor can write no file above 64 bytes: the ledger cannot be charged, so nothing may be trained."""
    process = scene.child(scene.target, "executor")
    log = scene.run / "run.log"
    begin = log.stat().st_size
    with limited(lambda: [process.pid], resource.RLIMIT_FSIZE, 64):
        codes: list[str] = []

        def failed() -> bool:
            codes[:] = scene.failures(scene.target, since=begin)
            return bool(codes)

        answered = scene.wait_for(failed, look_s=0.2)
    if is_alive(process):
        scene.end(process, signal.SIGKILL)
    return Seen(f"answered {', '.join(sorted(set(codes)))}" if answered else "no failed answer came", answered)


def fill_superlinks_disk(scene: Scene) -> Seen:
    """For fifteen seconds the SuperLink cannot write its database."""
    process, wrong = scene.child("server", "superlink"), dict[str, str]()
    with limited(lambda: [process.pid], resource.RLIMIT_FSIZE, 4096) as in_force:
        give_up = time.monotonic() + 15
        while time.monotonic() < give_up:
            wrong |= scene.wrong("server")
            time.sleep(0.5)
    ended = "" if is_alive(process) else "; the SuperLink was started again"
    return Seen(f"limit in force for 15 s; said: {', '.join(wrong) or 'nothing'}{ended}", in_force())


def fill_disk_at_renewal(scene: Scene) -> Seen:
    """No process of the coordinator can write, and its certificate is due; then there is room again."""
    settings, root = scene.deployment.settings, scene.deployment.processes["server"].pid
    with limited(lambda: tree([root]), resource.RLIMIT_FSIZE, 512):
        issue_server_certificate(settings.pki, hosts=[split_address(settings.address)[0]], days=DUE_DAYS)
        refused = scene.wait_for(lambda: "could not be renewed" in scene.wrong("server").get("certificate", ""))
        why = scene.wrong("server").get("certificate", "nothing")
        time.sleep(5)
    began = time.monotonic()
    renewed = scene.wait_for(lambda: days_left(settings.pki) > RENEW_DAYS, look_s=0.2)
    after = f"renewed {time.monotonic() - began:.1f} s after there was room" if renewed else "never renewed"
    return Seen(f"{after}; before: {why}", refused)
