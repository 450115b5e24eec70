"""What a run's figures mean, in a sentence each: better than guessing, by more than chance, still rising, diverged.

Guessing is answering with the most frequent class of the test set, whatever the text. The standard error is that of a
share of `n` independent texts, sqrt(a (1 - a) / n): what another test set of that size would have changed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLEARLY = 2.0
"""Standard errors that a difference must have to be called one."""


@dataclass(frozen=True)
class Guessing:
    """A test set, as somebody sees it who knows its classes and reads no text."""

    majority: float
    """Share of the most frequent class: the accuracy of always answering with it."""
    examples: int
    classes: int

    @classmethod
    def on(cls, labels: Iterable[Hashable], *, classes: int) -> Guessing:
        """Of the labels of a test set; ValueError where there are none."""
        counts = Counter(labels)
        if not counts:
            raise ValueError("a test set without examples says nothing of guessing.")
        return cls(max(counts.values()) / counts.total(), counts.total(), classes)


def standard_error(share: float, examples: int) -> float:
    """
    >>> round(standard_error(0.8, 400), 4)
    0.02
    """
    return math.sqrt(share * (1 - share) / examples)


def verdict(evaluations: Sequence[Mapping[str, float] | None], guessing: Guessing) -> dict[str, Any]:
    """The keys `majority`, `test_examples`, `standard_error` and `verdict` of summary.json; the last may be empty."""
    seen = [evaluation for evaluation in evaluations if evaluation is not None]
    said: dict[str, Any] = {"majority": guessing.majority, "test_examples": guessing.examples}
    if not seen:
        return {**said, "standard_error": None, "verdict": []}
    error = standard_error(seen[-1]["accuracy"], guessing.examples)
    return {**said, "standard_error": error, "verdict": list(_sentences(seen, guessing, error))}


def _sentences(seen: Sequence[Mapping[str, float]], guessing: Guessing, error: float) -> Iterable[str]:
    accuracy, loss = seen[-1]["accuracy"], seen[-1]["loss"]
    uniform = math.log(guessing.classes)
    nothing = f"ln({guessing.classes}) = {uniform:.2f}, that of knowing nothing"
    if not math.isfinite(loss) or loss > 2 * uniform:
        yield f"It diverged: its loss is {loss:.3g}, twice {nothing}, and more. Lower train.lr."
        return
    gain = accuracy - guessing.majority
    than = f"guessing: always answering with the largest class gives {guessing.majority:.3f}."
    if gain > CLEARLY * error:
        yield f"Accuracy {accuracy:.3f} ± {error:.3f} is better than {than}"
    elif gain < -CLEARLY * error:
        yield f"Accuracy {accuracy:.3f} ± {error:.3f} is worse than {than} Lower train.lr, or train longer."
    else:
        yield f"Accuracy {accuracy:.3f} ± {error:.3f} is no better than {than} Try another train.lr, or more rounds."
    if loss > uniform:
        yield f"Its loss {loss:.3f} is above {nothing}: it is sure where it is wrong."
    before = [one["accuracy"] for one in seen[:-1]]
    if before and accuracy - before[-1] > error and accuracy >= max(before):
        yield f"It was still rising, from {before[-1]:.3f} at the evaluation before: more rounds may help."
