"""The judge of what can be guessed: better than guessing, by more than chance, still rising, diverged.

Guessing a class is answering with the most frequent one of the test set, whatever the text. The standard error is that
of a share of `n` independent texts, sqrt(a (1 - a) / n): what another test set of that size would have changed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlora.tasks.metric import SHARE, Metric
from fedlora.tasks.verdict import Learning, Standing

if TYPE_CHECKING:
    from fedlora.protocol.task import Evaluation

ACCURACY = Metric("accuracy", unit=SHARE)
"""The share of texts whose most likely class is theirs."""

ROSE = 0.05
"""Nats that a loss must be above its lowest to be worth a sentence."""

CLEARLY = 2.0
"""Standard errors that a difference must have to be called one."""


@dataclass(frozen=True)
class Guessing:
    """A test set, as somebody sees it who knows its classes and reads no text; a `Judge`."""

    majority: float
    """What guessing gets right: the share of the most frequent class."""
    examples: int
    classes: int
    metric: Metric = ACCURACY
    """The share that is compared."""
    by: str = "always answering with the largest class"
    """How one guesses, in words."""
    needs_before: bool = False

    @classmethod
    def on(cls, labels: Iterable[Hashable], *, classes: int) -> Guessing:
        """Of the labels of a test set; ValueError where there are none."""
        counts = Counter(labels)
        if not counts:
            raise ValueError("a test set without examples says nothing of guessing.")
        return cls(max(counts.values()) / counts.total(), counts.total(), classes)

    def verdict(self, evaluations: Sequence[Evaluation | None]) -> dict[str, Any]:
        """See Judge; its own keys are `majority` and `standard_error` (None where nothing was evaluated)."""
        seen = [evaluation for evaluation in evaluations if evaluation is not None]
        said: dict[str, Any] = {"majority": self.majority, "test_examples": self.examples}
        if not seen:
            return {**said, "standard_error": None, "standing": None, "verdict": []}
        error = standard_error(seen[-1].value(self.metric.name), self.examples)
        standing = stands(seen[-1], self, error)
        return {
            **said, "standard_error": error, "standing": standing,
            "verdict": list(sentences(seen, self, error, standing)),
        }  # fmt: skip

    def learning(self, losses: Sequence[float], score: float) -> Learning:
        """See Judge. A loss of twice that of knowing nothing is no training."""
        uniform = math.log(self.classes)
        if not losses[-1] <= 2 * uniform:
            return "diverged"
        if score - self.majority > CLEARLY * standard_error(score, self.examples):
            return "learns"
        return "learns slowly" if losses[-1] < uniform and losses[-1] <= losses[0] else "does not learn"


def standard_error(share: float, examples: int) -> float:
    """
    >>> round(standard_error(0.8, 400), 4)
    0.02
    """
    return math.sqrt(share * (1 - share) / examples)


def stands(evaluation: Evaluation, guessing: Guessing, error: float) -> Standing:
    """What one evaluation is, against guessing and chance."""
    if not math.isfinite(evaluation.loss) or evaluation.loss > 2 * math.log(guessing.classes):
        return "diverged"
    gain = evaluation.value(guessing.metric.name) - guessing.majority
    if abs(gain) <= CLEARLY * error:
        return "no better than guessing"
    return "better than guessing" if gain > 0 else "worse than guessing"


ADVICE: Mapping[Standing, str] = {
    "worse than guessing": " Lower train.lr, or train longer.",
    "no better than guessing": " Try another train.lr, or more rounds.",
    "better than guessing": "",
}


def sentences(seen: Sequence[Evaluation], guessing: Guessing, error: float, standing: Standing) -> Iterable[str]:
    shares, loss = [one.value(guessing.metric.name) for one in seen], seen[-1].loss
    share, before = shares[-1], shares[:-1]
    uniform = math.log(guessing.classes)
    nothing = f"ln({guessing.classes}) = {uniform:.2f}, that of knowing nothing"
    if standing == "diverged":
        yield f"It diverged: its loss is {loss:.3g}, twice {nothing}, and more. Lower train.lr."
        return
    yield (
        f"{guessing.metric.title} {share:.3f} ± {error:.3f} is {standing}: {guessing.by} gives "
        f"{guessing.majority:.3f}.{ADVICE[standing]}"
    )
    if loss > uniform:
        yield f"Its loss {loss:.3f} is above {nothing}: it is sure where it is wrong."
    lowest = min(one.loss for one in seen)
    rising = before and share - before[-1] > error and share >= max(before)
    if standing == "better than guessing" and not rising and loss - lowest > ROSE:
        yield f"Its loss rose again, {lowest:.3f} to {loss:.3f}: fewer rounds or a lower train.lr may do as well."
    if rising:
        yield f"It was still rising, from {before[-1]:.3f} at the evaluation before: more rounds may help."
