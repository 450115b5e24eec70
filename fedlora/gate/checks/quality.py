"""How good an adapter is on a file's rows: against its base, guessing, the last one published, and sites alone.

Every comparison is on the same rows, row by row. A trained head stays on the base, as in `fedlora eval --with-base`.
Alone: every row is judged by each site's own model, and counts as their mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedlora.adapters.untouched import untouched
from fedlora.config import GateSettings
from fedlora.data.row import Row
from fedlora.gate.rule import no_worse
from fedlora.gate.verdict import Check
from fedlora.results.base import Judged, Results
from fedlora.results.judging.figures import Figure, Measured, difference, figure
from fedlora.results.opened import Opened
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean
from fedlora.tasks.guessing import ACCURACY

BASE, GUESSING, AGAINST, ALONE = "base", "guessing", "last published", "alone"


@dataclass(frozen=True)
class HeldOut:
    """Rows, and what other results make of each of them."""

    rows: Sequence[Row]
    results: Results
    others: Sequence[tuple[str, Sequence[Measured | None]]] = ()
    """By what the check is called."""


def quality(opened: Opened, on: HeldOut, by: GateSettings) -> list[Check]:
    """SettingsError where nothing can be measured."""
    judged = on.results.judge(opened, on.rows, seen=lambda rows: None)
    with untouched(opened.model):
        base = on.results.judge(opened, on.rows, seen=lambda rows: None).each
    found = [against(name, opened, judged.each, each, by) for name, each in ((BASE, base), *on.others)]
    return [*found, *guessed(opened, judged, by)]


def against(
    name: str,
    opened: Opened,
    ours: Sequence[Measured | None],
    theirs: Sequence[Measured | None],
    by: GateSettings,
) -> Check:
    metric = opened.task.compare_by
    pairs = [
        (one[metric.name], other[metric.name])
        for one, other in zip(ours, theirs, strict=True)
        if one is not None and other is not None
    ]
    if not pairs:
        raise SettingsError(f"--on: there is no row that the result and {name} can both be measured on.")
    apart = difference([one for one, _ in pairs], [other for _, other in pairs])
    than = "against the base" if name == BASE else f"against {name}"
    return no_worse(name, apart, metric, than, margin=by.margin, by=by)


def guessed(opened: Opened, judged: Judged, by: GateSettings) -> Iterator[Check]:
    """Of a task over classes: always answering with the file's largest class is no worse than this."""
    counts = judged.more.get("confusion", {}).get("counts")
    if counts is None or opened.task.compare_by != ACCURACY:
        return
    own = figure([one[ACCURACY.name] for one in judged.each if one is not None])
    share = max(map(sum, counts)) / own.rows
    apart = Figure(own.value - share, own.error, own.rows)
    yield no_worse(GUESSING, apart, ACCURACY, "against guessing the largest class", margin=0.0, by=by)


def measured_by(other: Opened, like: Opened, on: HeldOut) -> Sequence[Measured | None]:
    """What another result makes of the rows; SettingsError for one that cannot be compared."""
    if (other.on.task, other.labels) != (like.on.task, like.labels):
        raise SettingsError(f"{other.source.name} is of another task or other classes; it cannot be compared.")
    theirs, ours = other.source.about, like.source.about
    if ours.usage.language_servers and theirs.base.fingerprint != ours.base.fingerprint:
        raise SettingsError(
            f"{other.source.name} is on another base: what its tokens cost cannot be compared with this one's."
        )
    return on.results.judge(other, on.rows, seen=lambda rows: None).each


def mean_of(several: Sequence[Sequence[Measured | None]], metric: str) -> list[Measured | None]:
    """Row by row over several models; None where one of them measured nothing."""
    found: list[Measured | None] = []
    for row in zip(*several, strict=True):
        means = [one[metric] for one in row if one is not None]
        whole = len(means) == len(row)
        mean = Mean(sum(one.total for one in means) / len(row), means[0].weight) if whole else None
        found.append(None if mean is None else {metric: mean})
    return found
