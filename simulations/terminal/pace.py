"""Remaining time of a run, from the answers so far: known after the first one."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Counts rounds and the answers within one. Guarantee: never asks for more than this process has done itself, so a
    resumed run is not foretold from rounds of another machine."""

    def __init__(self, *, rounds: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`rounds`: those still to do."""
        self._rounds = rounds
        self._clock = clock
        self._begun: float | None = None
        self._whole = 0
        self._part = 0.0

    def started(self) -> None:
        """A round has begun."""
        self._begun = self._clock() if self._begun is None else self._begun
        self._part = 0.0

    def answered(self, share: float) -> None:
        """This share of the round's clients has answered, 0 to 1."""
        self._part = share

    def finished(self) -> None:
        """The round is over."""
        self._whole, self._part = self._whole + 1, 0.0

    @property
    def to_go(self) -> str:
        """`about 4 min to go`; empty before the first answer and after the last round."""
        done = self._whole + self._part
        if self._begun is None or not 0 < done < self._rounds:
            return ""
        return f"about {rough((self._clock() - self._begun) / done * (self._rounds - done))} to go"


def rough(seconds: float) -> str:
    """A time as a person would say it: 40 s, 4 min, 1.5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
