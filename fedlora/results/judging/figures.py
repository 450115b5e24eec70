"""Means over rows, and how far another set of as many rows would have moved them.

    R = Σ t_i / Σ w_i          error² = n / (n - 1) · Σ (t_i - R w_i)² / (Σ w_i)²

t_i is a row's total, w_i its weight (1, or its tokens: the rows are what is drawn, not their tokens). With weights of
one the error is the sample's standard deviation over √n, as lm-evaluation-harness has it. n rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedlora.tasks.base import Mean

Measured = Mapping[str, Mean]
"""Of one row, by a figure's name."""


@dataclass(frozen=True)
class Figure:
    """One mean."""

    value: float
    error: float | None
    """Its standard error; None of a single row."""
    rows: int
    """That it is of; 0 where there is nothing in any of them to take it of, such as an entity."""

    def as_json(self) -> dict[str, Any]:
        return {"value": self.value, "stderr": self.error, "rows": self.rows}


def figure(means: Sequence[Mean]) -> Figure:
    """ValueError where there are none.

    >>> figure([Mean(1.0, 1), Mean(0.0, 1), Mean(1.0, 1), Mean(0.0, 1)])
    Figure(value=0.5, error=0.28867513459481287, rows=4)
    """
    if not means:
        raise ValueError("there is no row to take the mean of.")
    if not any(mean.weight for mean in means):
        return Figure(ratio(means), None, 0)
    return Figure(ratio(means), error_of(residuals(means)), len(means))


def difference(ours: Sequence[Mean], theirs: Sequence[Mean]) -> Figure:
    """What two models differ by on the same rows: its error is that of the pairs, mostly far smaller than either's."""
    change = ratio(ours) - ratio(theirs)
    if not all(any(mean.weight for mean in means) for means in (ours, theirs)):
        return Figure(change, None, 0)
    apart = [one - other for one, other in zip(residuals(ours), residuals(theirs), strict=True)]
    return Figure(change, error_of(apart), len(ours))


def ratio(means: Sequence[Mean]) -> float:
    """What the figure says of nothing, where nothing is in any of them."""
    weight = math.fsum(mean.weight for mean in means)
    return means[0].of_mean(math.fsum(mean.total for mean in means) / weight) if weight else means[0].of_nothing


def residuals(means: Sequence[Mean]) -> list[float]:
    """What each row adds to the figure's deviation, to first order."""
    plain = [replace(mean, exponent=False) for mean in means]
    value, weight = ratio(plain), math.fsum(mean.weight for mean in means)
    slope = ratio(means) if means[0].exponent else 1.0
    return [slope * (mean.total - value * mean.weight) / weight for mean in means]


def error_of(apart: Sequence[float]) -> float | None:
    n = len(apart)
    return math.sqrt(n / (n - 1) * math.fsum(part * part for part in apart)) if n > 1 else None


def figures(each: Sequence[Measured]) -> dict[str, Figure]:
    """Of every name that the rows have, over the rows that have it."""
    names = dict.fromkeys(name for one in each for name in one)
    return {name: figure([one[name] for one in each if name in one]) for name in names}
