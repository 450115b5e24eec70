"""Cost of a private run, before training: σ per client, ε by round, noise by strategy.

Shapes: one adapted matrix W (m, n), rank r; T steps of learning rate η on noise alone, standard deviation
τ = σ C / b per value; s is the adapter's scale. Expected squared noise in the served ΔW = s B [R] A, from B = 0:

    FFA, A fixed           s² η² τ² T · m ‖A‖²                      grows with √T
    FedSVD, A orthonormal  the same with ‖A‖² = r, round by round   grows with √T
    FedIT, A and B         s² η² τ² T · m (‖A‖² + η² τ² T · r n)    grows with T once the second term leads
    Fed-SB, R              s² η² τ² T · r²                          grows with √T, and with r instead of √(m r)

The quadratic term is why FFA-LoRA freezes A (Sun et al., arXiv 2403.12313).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedlora.config.privacy import PrivacySettings
from fedlora.config.train import TrainSettings
from fedlora.privacy.accounting import epsilon
from fedlora.privacy.calibration import public_size, size_bound
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.terms import epsilon_at_most, event_of, mechanism_for, target_of


@dataclass(frozen=True)
class ClientPlan:
    """One client's noise for the whole run, and where its ε stands after chosen rounds."""

    examples: int
    public_examples: int
    rate: float
    noise_multiplier: float
    epsilon_by_round: tuple[tuple[int, float], ...]
    epsilon_at_most: float
    """With every spare round taken as well: what the site can be charged in the run."""
    one_more_round: float
    """The ε that one round beyond the plan would add."""


@dataclass(frozen=True)
class Release:
    """Values that a strategy sends per adapted matrix and round, and the noise in its ΔW at the end."""

    strategy: str
    values: int
    noise_after_one_step: float
    noise_after_run: float
    growth: str


def plan_client(examples: int, *, privacy: PrivacySettings, train: TrainSettings, rounds: int) -> ClientPlan:
    """What a site of so many training examples does in a run, by the terms on which its guard will charge it.

    Worst case: it is called in every round, and its policy declares no size and asks for no more noise. ValueError
    where δ >= 1 / examples, UnreachableError where no noise meets the target.
    """
    mechanism = planned_mechanism(examples, privacy=privacy, train=train, rounds=rounds)
    most, target = rounds + privacy.spare_rounds, target_of(privacy)

    def after(count: int) -> float:
        return epsilon([event_of(mechanism, count)], delta=privacy.delta)

    shown = sorted({1, *(max(1, round(rounds * part)) for part in (0.1, 0.25, 0.5, 0.75)), rounds})
    return ClientPlan(
        examples=examples,
        public_examples=public_size(examples),
        rate=mechanism.rate,
        noise_multiplier=mechanism.noise_multiplier,
        epsilon_by_round=tuple((number, after(number)) for number in shown),
        epsilon_at_most=epsilon_at_most(privacy, mechanism, trainings=most, target=target),
        one_more_round=after(most + 1) - after(most),
    )


def planned_epsilon(examples: int, *, privacy: PrivacySettings, train: TrainSettings, rounds: int) -> float:
    """ε that such a site can be charged in the run, at most. Errors as for `plan_client`."""
    mechanism = planned_mechanism(examples, privacy=privacy, train=train, rounds=rounds)
    most = rounds + privacy.spare_rounds
    return epsilon_at_most(privacy, mechanism, trainings=most, target=target_of(privacy))


def planned_mechanism(examples: int, *, privacy: PrivacySettings, train: TrainSettings, rounds: int) -> Mechanism:
    """One training. As at the site, the examples are held to be the next smaller step of the public ladder."""
    if privacy.delta * (most := size_bound(examples)) >= 1:
        raise ValueError(
            f"delta {privacy.delta} is not below 1 / {most} (for {examples} examples); choose a smaller delta."
        )
    return mechanism_for(
        privacy,
        train,
        size=public_size(examples),
        most_charges=rounds + privacy.spare_rounds,
        target=target_of(privacy),
    )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One adapted matrix and how it is trained."""

    m: int
    n: int
    r: int
    r_core: int
    """Rank of Fed-SB's core: it can afford a larger one."""
    lr: float
    scale: float = 1.0


def releases(shape: Shape, *, noise_std: float, steps: int) -> Sequence[Release]:
    """The four strategies on one matrix. `noise_std` is τ = σ C / b per value and step."""
    m, n, r, core = shape.m, shape.n, shape.r, shape.r_core
    kaiming = r / 3.0  # ‖A‖² of r rows with entries U(-1/√n, 1/√n)
    return (
        _release("fedit", r * (m + n), "T", lambda t: m * (kaiming + t * r * n), shape, noise_std, steps),
        _release("ffa", r * m, "√T", lambda t: m * kaiming, shape, noise_std, steps),
        _release("fedsvd", r * m, "√T", lambda t: m * r, shape, noise_std, steps),
        _release("fedsb", core * core, "√T", lambda t: core * core, shape, noise_std, steps),
    )


def _release(
    strategy: str,
    values: int,
    growth: str,
    spread: Callable[[float], float],
    shape: Shape,
    noise_std: float,
    steps: int,
) -> Release:
    def noise(count: int) -> float:
        moved = count * (shape.lr * noise_std) ** 2  # variance of one trained value after `count` steps
        return shape.scale * math.sqrt(moved * spread(moved))

    return Release(strategy, values, noise(1), noise(steps), growth)
