"""Clocks that are wrong, and set right again (`tests/chaos/clocks.py`)."""

from __future__ import annotations

import time

from tests.chaos.report import Seen
from tests.chaos.scene import Scene

HOUR_S, DAY_S = 3600.0, 86_400.0
WRONG_S = 15.0


def site_clock_ahead(scene: Scene) -> Seen:
    """Its signatures are from the future."""
    return skewed(scene, scene.target, 2 * HOUR_S)


def site_clock_behind(scene: Scene) -> Seen:
    """To it the coordinator's certificate is not valid yet."""
    return skewed(scene, scene.target, -2 * DAY_S)


def server_clock_ahead(scene: Scene) -> Seen:
    """Everybody's signatures are old, all heartbeats overdue; then it is set back."""
    return skewed(scene, "server", 2 * HOUR_S)


def skewed(scene: Scene, name: str, ahead_s: float) -> Seen:
    """Seen in the times that its own duties carry, or in its log: it is a clock of that process."""
    process = scene.supervisor(name)
    preloaded = b"clock.so" in open(f"/proc/{process.pid}/maps", "rb").read()  # noqa: SIM115, PTH123
    scene.clocks.set(name, ahead_s=ahead_s)
    time.sleep(WRONG_S)
    wrong = scene.wrong(name)
    scene.clocks.set(name, ahead_s=0.0)
    return Seen(f"wrong for {WRONG_S:.0f} s; said: {', '.join(wrong) or 'nothing'}", preloaded)
