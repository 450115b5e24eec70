"""What a task answers for once a run is over: a line for every row that somebody asks about, and figures row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fedlora.data.form import Form

if TYPE_CHECKING:
    from fedlora.data.row import Row
    from fedlora.results.opened import Opened
    from fedlora.tasks.base import Mean

Answer = Mapping[str, Any]
"""One row's columns in the order in which they are written; `error` alone where there is no answer."""

Seen = Callable[[int], None]
"""Hears how many more rows are done."""


@dataclass(frozen=True)
class Judged:
    """Rows held against what stands in them."""

    each: Sequence[Mapping[str, Mean] | None]
    """What the task's `measure` makes of each row by itself; None for one that has nothing to measure."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What the task says besides, as JSON."""


class Results(Protocol):
    """One task. Nothing outside its file knows what an answer of it looks like."""

    def asks(self, form: Form) -> tuple[str, ...]:
        """The columns that an answer needs: not what is to be answered."""
        ...

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """One for every row, in their order, as each is known. `most_tokens`: of an answer that is written."""
        ...

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        """SettingsError for a row of a class that the run does not have."""
        ...


def chunks(rows: Sequence[Row], size: int) -> Iterator[Sequence[Row]]:
    """In order, at most `size` at a time."""
    return (rows[start : start + size] for start in range(0, len(rows), size))
