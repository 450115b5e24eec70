"""A learning-rate range test: a few short runs of one recipe that differ in `train.lr` alone, and which to take.

Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017), section 3.3, raises the rate within one run.
In a federation every round begins with a fresh optimiser and ends in a mean, so that each rate has a run of its own.

Rates are compared on what clients keep apart of their own data: the shared test set is for the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlora.settings import SettingsError
from fedlora.tasks.verdict import Judge

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
SAME = 0.02
"""Relative tolerance: losses within it of the smallest count as equal, and the lowest such rate is the most stable."""


@dataclass(frozen=True)
class Tried:
    """One learning rate and its result."""

    rate: float
    judge: Judge
    losses: tuple[float, ...] = ()
    """Nats, after each round; none where no round ended."""
    score: float = 0.0
    """The figure that the task's runs are compared by, after the last round."""

    @property
    def loss(self) -> float:
        return self.losses[-1] if self.losses else math.inf

    @property
    def verdict(self) -> str:
        """The judge's verdict, in a few words."""
        return self.judge.learning(self.losses, self.score) if self.losses else "diverged"


def rates_around(rate: float) -> tuple[float, ...]:
    """Five rates with the given one in their middle, to two digits.

    >>> rates_around(0.01), rates_around(0.005)
    ((0.001, 0.003, 0.01, 0.03, 0.1), (0.0005, 0.0015, 0.005, 0.015, 0.05))
    """
    return tuple(float(f"{rate * factor:.2g}") for factor in FACTORS)


def rates_of(text: str) -> tuple[float, ...]:
    """`0.001,0.01` as numbers, the smallest first; SettingsError for what is none, or fewer than two."""
    try:
        rates = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        rates = ()
    if len(rates) < 2 or not all(0 < rate < math.inf for rate in rates):
        raise SettingsError(
            f"--rates {text!r}: write two or more rates separated by commas, for example --rates 0.001,0.01."
        )
    return rates


def best(tried: Sequence[Tried]) -> Tried | None:
    """The lowest rate whose loss is within SAME of the smallest; None where nothing learned."""
    learned = [one for one in tried if one.verdict.startswith("learns")]
    if not learned:
        return None
    least = min(one.loss for one in learned)
    return min((one for one in learned if one.loss <= least * (1 + SAME)), key=lambda one: one.rate)


def why(chosen: Tried | None, tried: Sequence[Tried]) -> str:
    """The choice in a sentence or two, with what to try next where it is at an end of the rates."""
    low, high = min(one.rate for one in tried), max(one.rate for one in tried)
    if chosen is None:
        if all(one.verdict == "diverged" for one in tried):
            return f"All of them diverged; try lower rates: --rates {low / 100:g},{low / 10:g},{low / 3:g}."
        return (
            "None of them learned in this short time: try more --rounds or train.steps, and check the "
            "classes that `fedlora simulate` lists and model.max_tokens."
        )
    said = f"train.lr={chosen.rate:g} has the smallest loss, {chosen.loss:.3f}"
    lower = [one for one in tried if one.loss < chosen.loss and one.verdict != "diverged"]
    if lower:
        said = f"train.lr={chosen.rate:g} is the lowest rate whose loss, {chosen.loss:.3f}, is as small as any"
    above = [one.rate for one in tried if one.rate > chosen.rate and one.verdict == "diverged"]
    said += f"; {min(above):g} diverged." if above else "."
    if chosen.rate == high:
        said += f" It is the largest of them; also try larger rates: --rates {high:g},{high * 3:g},{high * 10:g}."
    elif chosen.rate == low:
        said += f" It is the smallest of them; also try smaller rates: --rates {low / 10:g},{low / 3:g},{low:g}."
    return said
