"""A file's rows judged: the task's metrics with their errors, by client, beside the base.

The base is the model with the adapter off. A head that trained stays: without it there are no classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlora.adapters.untouched import untouched
from fedlora.data.row import Row
from fedlora.results.base import Judged, Results, Seen
from fedlora.results.given import Given, left_out
from fedlora.results.judging.figures import Figure, Measured, difference, figures
from fedlora.results.opened import Opened
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean
from fedlora.tasks.metric import LOSS, Metric

NOTHING = "nothing to measure on"
FEW = 20
"""Rows; the worst of clients is looked for among those that have as many, if any has."""


@dataclass(frozen=True)
class Evaluated:
    """What one model makes of one file."""

    task: str
    metrics: tuple[Metric, ...]
    """The loss first."""
    compare_by: Metric
    figures: Mapping[str, Figure]
    more: Mapping[str, Any]
    """See `Judged`."""
    by_client: Mapping[str, Mapping[str, Figure]]
    """Empty where the file does not say whose its rows are."""
    rows: int
    """That were measured."""
    left_out: Mapping[str, int]
    """The others, by the reason."""
    base: Mapping[str, Figure] | None = None
    gained: Mapping[str, Figure] | None = None
    """What was better or worse than the base on the same rows; None without it."""

    @property
    def worst(self) -> str | None:
        """The client for which the model is worst, by the figure that runs are compared by; None without clients."""
        of_each = {name: own[self.compare_by.name] for name, own in self.by_client.items()}
        known = {name: own for name, own in of_each.items() if own.rows}
        enough = {name: own for name, own in known.items() if own.rows >= FEW} or known
        sign = 1 if self.compare_by.larger_is_better else -1
        return min(enough, key=lambda name: sign * enough[name].value, default=None)

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "task": self.task, "rows": self.rows, "left_out": dict(self.left_out), "metrics": as_json(self.figures),
            **self.more,
        }  # fmt: skip
        if self.by_client:
            worst = {"client": self.worst, "by": self.compare_by.name}
            found |= {"by_client": {name: as_json(own) for name, own in self.by_client.items()}, "worst_client": worst}
        if self.base is not None and self.gained is not None:
            found |= {"base": as_json(self.base), "difference": as_json(self.gained)}
        return found


def as_json(found: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: one.as_json() for name, one in found.items()}


def evaluated(
    opened: Opened, given: Sequence[Given], results: Results, *, with_base: bool, seen: Seen = lambda rows: None
) -> Evaluated:
    """SettingsError where nothing can be measured, or a row's class is not one of the run's."""
    rows = [one.row for one in given if one.row is not None]
    judged = results.judge(opened, rows, seen=seen)
    places = [place for place, one in enumerate(judged.each) if one is not None]
    if not places:
        raise nothing_to_measure(opened, given, len(rows))
    ours = measured(judged)
    without = len(rows) - len(places)
    theirs = None
    if with_base:
        with untouched(opened.model):
            theirs = measured(results.judge(opened, rows, seen=seen))
    return Evaluated(
        opened.on.task,
        (LOSS, *opened.task.metrics),
        opened.task.compare_by,
        figures(ours),
        judged.more,
        by_client([rows[place] for place in places], ours),
        len(places),
        {**left_out(given), **({NOTHING: without} if without else {})},
        None if theirs is None else figures(theirs),
        None if theirs is None else gained(ours, theirs),
    )


def nothing_to_measure(opened: Opened, given: Sequence[Given], rows: int) -> SettingsError:
    left = "; ".join(f"{count} with {why}" for why, count in left_out(given).items())
    if rows or not left:
        left = f"in none of {rows} rows is anything left once it is cut at model.max_tokens={opened.on.max_tokens}"
    return SettingsError(f"there is {NOTHING}: {left}.")


def measured(judged: Judged) -> list[Measured]:
    return [one for one in judged.each if one is not None]


def by_client(rows: Sequence[Row], each: Sequence[Measured]) -> dict[str, dict[str, Figure]]:
    """In the order of their names; none where no row has a client."""
    names = sorted({row.client for row in rows} - {""})
    return {name: figures([one for row, one in zip(rows, each, strict=True) if row.client == name]) for name in names}


def gained(ours: Sequence[Measured], theirs: Sequence[Measured]) -> dict[str, Figure]:
    def of(name: str, each: Sequence[Measured]) -> list[Mean]:
        return [one[name] for one in each]

    shared = [name for name in ours[0] if all(name in one for one in (*ours, *theirs))]
    return {name: difference(of(name, ours), of(name, theirs)) for name in shared}
