"""KTO (Ethayarajh et al., arXiv 2402.01306): every answer is good or bad by itself, and no two are compared.

    r = ln π(y) - ln π_ref(y)
    a good answer   ℓ = λ_D (1 - σ(β (r - z0)))
    a bad answer    ℓ = λ_U (1 - σ(β (z0 - r)))

The paper's z0 is an estimate of KL(π, π_ref) from other prompts' answers in the batch. It would make an example's
gradient depend on who was drawn with it, which the noise does not cover, and on how a machine cuts a batch into
microbatches. z0 is a constant of the recipe here: 0 is what TRL calls `apo_zero_unpaired` (APO-zero's unpaired form,
arXiv 2408.06266).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlora.config.preference import PreferenceSettings
from fedlora.tasks.answering.objective import Likelihoods


@dataclass(frozen=True)
class Kto:
    """See Objective, of pairs: the mean of both losses; the margin is β times what the chosen answer gained more."""

    beta: float
    desirable_weight: float
    undesirable_weight: float
    reference_point: float
    """z0, in nats."""
    refers: ClassVar[bool] = True
    starts_at_chance: ClassVar[bool] = False

    def losses(self, found: Likelihoods) -> Tensor:
        chosen_b, rejected_b = found.gains
        good_b = self.losses_of(chosen_b, torch.ones_like(chosen_b, dtype=torch.bool))
        return (good_b + self.losses_of(rejected_b, torch.zeros_like(rejected_b, dtype=torch.bool))) / 2

    def margins(self, found: Likelihoods) -> Tensor:
        chosen_b, rejected_b = found.gains
        return self.beta * (chosen_b - rejected_b)

    def losses_of(self, gains_b: Tensor, good_b: Tensor) -> Tensor:
        """(b,): of answers by themselves, from what each gained on the base."""
        weights_b = torch.where(good_b, self.desirable_weight, self.undesirable_weight).to(gains_b.dtype)
        return weights_b * torch.sigmoid(-self.margins_of(gains_b, good_b))

    def margins_of(self, gains_b: Tensor, good_b: Tensor) -> Tensor:
        """(b,): above zero for an answer that is on its side of z0."""
        away_b = self.beta * (gains_b - self.reference_point)
        return torch.where(good_b, away_b, -away_b)


def kto_of(settings: PreferenceSettings) -> Kto:
    """What a recipe asks for."""
    return Kto(
        settings.beta,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
        reference_point=settings.reference_point,
    )
