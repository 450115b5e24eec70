"""One figure by which a model is judged: its name, which way is up, and how it is shown. Loads no model library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

SHARE = "%"
"""The unit of a share of one: shown in percent."""


@dataclass(frozen=True)
class Metric:
    """A metric of a task, or the loss.

    >>> accuracy = Metric("token_accuracy", unit=SHARE)
    >>> accuracy.title, accuracy.better(0.9, 0.8), LOSS.better(0.9, 0.8), LOSS.best([0.9, 0.8])
    ('Token accuracy', True, False, 0.8)
    """

    name: str
    """As it stands in rounds.jsonl, in the store and in the API."""
    larger_is_better: bool = True
    unit: str = ""
    """What stands behind its values; `SHARE` for a share of one."""

    @property
    def words(self) -> str:
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The words as a heading."""
        return self.words[:1].upper() + self.words[1:]

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than the other; no number is neither better nor worse."""
        return one > other if self.larger_is_better else one < other

    def best(self, values: Iterable[float]) -> float:
        """Of values that are numbers; ValueError where there are none."""
        return max(values) if self.larger_is_better else min(values)


LOSS = Metric("loss", larger_is_better=False, unit="nats")
"""What every task measures."""


def shared(metrics: Iterable[Metric]) -> Metric | None:
    """The metric that all of them are; None where they differ, or there are none."""
    found = set(metrics)
    return found.pop() if len(found) == 1 else None
