"""The server certificate runs out: all at once, or in the middle of a run on a machine without the authority's key."""

from __future__ import annotations

import signal
import time

from fedlora.deployment.environment import split_address
from server.trust.certificates import days_left, issue_server_certificate
from server.trust.renewal import RENEW_DAYS
from tests.chaos.report import Seen
from tests.chaos.scene import Scene

LIFE_S = 15.0
DAY_S = 86_400.0
AWAY_S = 15.0
"""So long it has run out before the authority's key is back."""


def expire_certificate(scene: Scene) -> Seen:
    """As on a machine that was off for a year: the coordinator has to renew it by itself."""
    pki, began = scene.deployment.settings.pki, time.monotonic()
    issue_server_certificate(pki, hosts=hosts(scene), days=-1)
    expired = days_left(pki) < 0
    renewed = scene.wait_for(lambda: days_left(pki) > RENEW_DAYS, look_s=0.1)
    if not renewed:
        issue_server_certificate(pki, hosts=hosts(scene))
    said = f"renewed by the coordinator after {time.monotonic() - began:.1f} s" if renewed else "not renewed by itself"
    return Seen(said, expired)


def end_certificate_in_run(scene: Scene) -> Seen:
    """It ends while the run goes on and the key is elsewhere; then the SuperLink dies, and everybody must connect."""
    pki = scene.deployment.settings.pki
    issue_server_certificate(pki, hosts=hosts(scene), days=LIFE_S / DAY_S)
    (pki / "ca.key").rename(pki.parent / "elsewhere.key")  # before the coordinator's next look, or it would renew it
    try:
        if not scene.wait_for(lambda: days_left(pki) < 0, look_s=0.1) or days_left(pki) > 0:
            return Seen("it was renewed before the key was away", happened=False)
        scene.end(scene.child("server", "superlink"), signal.SIGKILL)
        time.sleep(AWAY_S)
        why = scene.wrong("server").get("certificate", "nothing")
    finally:
        (pki.parent / "elsewhere.key").rename(pki / "ca.key")
    began = time.monotonic()
    renewed = scene.wait_for(lambda: days_left(pki) > RENEW_DAYS, look_s=0.1)
    after = f"renewed {time.monotonic() - began:.1f} s after the key was back" if renewed else "never renewed"
    return Seen(f"{after}; before: {why}")


def hosts(scene: Scene) -> list[str]:
    return [split_address(scene.deployment.settings.address)[0]]
