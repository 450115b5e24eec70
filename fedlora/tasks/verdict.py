"""What a run's figures mean, in a sentence each. A task says who judges them (`TaskKind.judge`).

`Course` knows nothing of the task: whether the figure got better since the first evaluation, and whether it still does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from fedlora.tasks.metric import Metric

if TYPE_CHECKING:
    from fedlora.protocol.task import Evaluation

Standing = Literal[
    "diverged",
    "worse than guessing",
    "worse than at first",
    "no better than guessing",
    "no better than at first",
    "better than guessing",
    "better than at first",
]
STANDINGS: tuple[Standing, ...] = get_args(Standing)
"""From worst to best, of whichever judge."""

Learning = Literal["diverged", "does not learn", "learns slowly", "learns"]

NOTABLE = 0.01
"""Relative change of a figure from which on it is worth a sentence, where chance is not known."""

DIVERGED_NATS = 1.0
"""A loss that much above the first one: the right answer has become e times less likely."""


class Judge(Protocol):
    """Says what figures on one test set mean."""

    @property
    def needs_before(self) -> bool:
        """Whether the figures of the model before round 1 are looked for, as the first of the evaluations."""
        ...

    def verdict(self, evaluations: Sequence[Evaluation | None]) -> dict[str, Any]:
        """The keys `test_examples`, `standing` and `verdict` of summary.json, and the judge's own.

        `standing` is one of `STANDINGS`, or None where nothing can be said of it; `verdict` is empty where nothing was
        evaluated.
        """
        ...

    def learning(self, losses: Sequence[float], score: float) -> Learning:
        """What a few rounds came to: the loss in nats after each, at least one, and the last value of the metric."""
        ...


@dataclass(frozen=True)
class Course:
    """The judge of a task that has no guessing to be compared with."""

    metric: Metric
    examples: int
    needs_before: bool = True

    def verdict(self, evaluations: Sequence[Evaluation | None]) -> dict[str, Any]:
        """See Judge."""
        seen = [evaluation for evaluation in evaluations if evaluation is not None]
        standing = self.stands(seen) if seen else None
        said = list(self.sentences(seen, standing)) if seen else []
        return {"test_examples": self.examples, "standing": standing, "verdict": said}

    def learning(self, losses: Sequence[float], score: float) -> Learning:
        """See Judge."""
        first, last = losses[0], losses[-1]
        if not last <= first + DIVERGED_NATS:
            return "diverged"
        if last < first and notable(first, last):
            return "learns"
        return "learns slowly" if last <= first else "does not learn"

    def stands(self, seen: Sequence[Evaluation]) -> Standing | None:
        """Against the first evaluation; None where that is the only one."""
        first, last = seen[0], seen[-1]
        if not math.isfinite(last.loss) or last.loss > first.loss + DIVERGED_NATS:
            return "diverged"
        if len(seen) == 1:
            return None
        before, now = first.value(self.metric.name), last.value(self.metric.name)
        if not notable(before, now):
            return "no better than at first"
        return "better than at first" if self.metric.better(now, before) else "worse than at first"

    def sentences(self, seen: Sequence[Evaluation], standing: Standing | None) -> Iterable[str]:
        values = [evaluation.value(self.metric.name) for evaluation in seen]
        first, last, best = values[0], values[-1], self.metric.best(values)
        if standing == "diverged":
            yield f"It diverged: its loss is {seen[-1].loss:.3g}, {seen[0].loss:.3g} at first. Lower train.lr."
            return
        if standing is None:
            yield f"{self.metric.title} {last:.4g}; there is no other evaluation to compare it with."
            return
        yield f"{self.metric.title} {last:.4g} is {standing}: that was {first:.4g}.{ADVICE[standing]}"
        ahead, back = ("rising", "fell") if self.metric.larger_is_better else ("falling", "rose")
        if last == best and notable(values[-2], last) and self.metric.better(last, values[-2]):
            yield f"It was still {ahead}, from {values[-2]:.4g} at the evaluation before: more rounds may help."
        elif standing == "better than at first" and notable(best, last):
            yield f"It {back} again, {best:.4g} to {last:.4g}: fewer rounds or a lower train.lr may do as well."


ADVICE: Mapping[Standing, str] = {
    "worse than at first": " Lower train.lr.",
    "no better than at first": " Try another train.lr, or more rounds.",
    "better than at first": "",
}


def notable(one: float, other: float) -> bool:
    """
    >>> notable(2.0, 2.01), notable(2.0, 2.1)
    (False, True)
    """
    return abs(one - other) > NOTABLE * max(abs(one), abs(other))
