"""Terms of a site's private steps in a run: q, σ, C, steps and denominator. They are computed only here.

    q = min(1, batch / size)       size is public: declared in the site's policy, or a step of the ladder
    σ = the largest of the recipe's own, the site's least, and what the target asks for in `most_charges` trainings
    b = q · size

The guard charges by these terms, and the plan, the pages and the audit predict with the same ones, so that what is
announced is what is charged.

Guarantee: `epsilon_at_most` is an upper bound on the ε that a guard grants in so many trainings under one mechanism,
and equal to it where σ stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fedlora.config.privacy import PrivacySettings
from fedlora.config.train import TrainSettings
from fedlora.privacy.accounting import Event, SampledGaussian, epsilon
from fedlora.privacy.calibration import noise_for_the_rest, noise_multiplier_for
from fedlora.privacy.mechanism import Mechanism


def target_of(privacy: PrivacySettings, own: float | None = None) -> float | None:
    """ε that a run may cost a site: the smaller of the recipe's and the site's own. None: σ alone is given."""
    return min((target for target in (privacy.epsilon, own) if target is not None), default=None)


def mechanism_for(
    privacy: PrivacySettings,
    train: TrainSettings,
    *,
    size: int,
    most_charges: int,
    target: float | None,
    least_sigma: float = 0.0,
) -> Mechanism:
    """One training of a site whose public size is `size` examples. UnreachableError where no σ meets the target.

    `most_charges`: trainings that the site can be charged for in the run; `least_sigma`: the site's policy's.
    """
    rate = min(1.0, train.batch_size / size)
    sigma = max(privacy.noise_multiplier or 0.0, least_sigma)
    if target is not None:
        steps = most_charges * train.counted_steps
        sigma = max(sigma, noise_multiplier_for(target, delta=privacy.delta, rate=rate, steps=steps))
    return Mechanism(
        rate=rate, noise_multiplier=sigma, clip=privacy.clip, steps=train.counted_steps, expected_batch=rate * size
    )


def adapted(
    calibrated: Mechanism,
    privacy: PrivacySettings,
    spent: Sequence[Event],
    *,
    noise_factor: float,
    most_charges: int,
    target: float,
    order: float,
    least_sigma: float = 0.0,
) -> Mechanism:
    """The same under privacy.adapt: σ as asked for, and more where the rest of the run's ε asks for more.

    `spent`: what the run has been charged before, an event a training; `order`: the run's filter's.
    """
    rest = noise_for_the_rest(
        target,
        spent,
        delta=privacy.delta,
        rate=calibrated.rate,
        steps=max(1, most_charges - len(spent)) * calibrated.steps,
        order=order,
    )
    asked = noise_factor * calibrated.noise_multiplier
    sigma = max(asked, rest, privacy.noise_multiplier or 0.0, least_sigma)
    return replace(calibrated, noise_multiplier=sigma)


def event_of(training: SampledGaussian, trainings: int = 1) -> Event:
    """ε of this many trainings like this one."""
    return Event(rate=training.rate, noise_multiplier=training.noise_multiplier, steps=trainings * training.steps)


def epsilon_at_most(
    privacy: PrivacySettings, training: SampledGaussian, *, trainings: int, target: float | None
) -> float:
    """ε of a run in which a site is charged for so many trainings. Under privacy.adapt the target: σ is not known."""
    if privacy.adapt is not None and target is not None:
        return target
    composed = epsilon([event_of(training, trainings)], delta=privacy.delta)
    return composed if target is None else min(target, composed)
