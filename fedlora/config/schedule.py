"""The learning rate over a run: a function of settings, round and step alone, so that no site and no crash changes it.

With T rounds (or steps of all rounds together, `schedule_over`), W of them warm-up, and f = min_lr_rate, unit
t = 0 ... T - 1 has the share

    (t + 1) / (W + 1)                      t < W      never 0: the first step moves, too
    f + (1 - f) (1 + cos π p) / 2          cosine     p = (t - W) / (T - W - 1), from 0 to 1
    1 - (1 - f) p                          linear
    1                                      constant

of `lr` and of `head_lr`. Cosine: Loshchilov and Hutter, arXiv 1608.03983, eq. 5, without restarts.

Guarantee: every share is above 0 and at most 1, exactly 1 without a schedule and warm-up, and none is below `least`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedlora.config import Recipe, TrainSettings


@dataclass(frozen=True)
class Schedule:
    """What share of its learning rate a unit of the run has."""

    shape: Literal["constant", "linear", "cosine"]
    units: int
    """T: rounds, or steps."""
    warmup: int
    """W: so many units are below the whole rate."""
    end: float
    """f: the last unit's share, of what falls."""

    def share(self, unit: int) -> float:
        """Of unit t, counted from 0; what comes after the last unit is as that was."""
        t = min(unit, self.units - 1)
        if t < self.warmup:
            return (t + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return 1.0
        gone = (t - self.warmup) / max(self.units - self.warmup - 1, 1)
        left = (1 + math.cos(math.pi * gone)) / 2 if self.shape == "cosine" else 1 - gone
        return self.end + (1 - self.end) * left

    @property
    def least(self) -> float:
        """The smallest share of the run: rates rise once, then fall."""
        return min(self.share(0), self.share(self.units - 1))


def schedule_of(train: TrainSettings, *, rounds: int, steps: int) -> Schedule:
    """The schedule of a run of so many rounds, of a client that takes so many steps in each."""
    units = rounds if train.schedule_over == "rounds" else rounds * steps
    warmup = math.ceil(train.warmup * units - 1e-9) if train.warmup < 1 else int(train.warmup)
    return Schedule(train.schedule, units, min(warmup, units), train.min_lr_rate)


def share_at(train: TrainSettings, *, number: int, rounds: int, step: int, steps: int) -> float:
    """The share of the learning rate in a step (from 0) of round `number` (from 1)."""
    schedule = schedule_of(train, rounds=rounds, steps=steps)
    return schedule.share(number - 1 if train.schedule_over == "rounds" else (number - 1) * steps + step)


def rate_of_round(recipe: Recipe, number: int) -> float | None:
    """The learning rate with which a round begins; None where it never changes, or a client's own number of rows
    decides it."""
    train = recipe.train
    if train.schedule == "constant" and not train.warmup:
        return None
    if train.schedule_over == "steps" and train.steps is None:
        return None
    steps = train.steps or 1
    return train.lr * share_at(train, number=number, rounds=recipe.rounds.count, step=0, steps=steps)
