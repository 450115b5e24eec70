"""Stages between the answers and the strategy: a list, each taking updates and handing updates on.

    first, second = stages        answers ─► first ─► second ─► strategy.combine

A stage may hand on fewer updates than it was given, others in their place, or one for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from fedlora.updates import Adapter, Factor, Update


class Judge(Protocol):
    """Told what becomes of the update that arrived at `position`; a code where it is left out."""

    def __call__(self, position: int, *, change_norm: float | None = None, code: str | None = None) -> None: ...


@dataclass(frozen=True)
class Round:
    """One round, as every stage of it sees it."""

    number: int
    sent: Adapter
    """The state that all clients were sent."""
    trains: tuple[Factor, ...]
    judge: Judge
    stop: Callable[[str], Exception]
    """The exception that ends a round which cannot be judged, from the reason."""


class Stage(Protocol):
    """Guarantee: nothing is kept from one round for the next.

    A stage that judges single updates stands before any that leaves out, reorders or replaces them: `judge` takes the
    position at which an update arrived.
    """

    @property
    def serves_the_mean(self) -> bool:
        """Whether what is served can be compared with the mean of what this stage let in."""
        ...

    def arrive(self, updates: Iterator[Update], this: Round) -> Iterator[Update]:
        """The updates that go on. Each is read once, as it arrives."""
        ...


def through(stages: Iterable[Stage], updates: Iterator[Update], this: Round) -> Iterator[Update]:
    """What is left after all of them, in their order."""
    for stage in stages:
        updates = stage.arrive(updates, this)
    return updates
