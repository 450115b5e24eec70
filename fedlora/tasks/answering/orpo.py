"""ORPO (Hong, Lee and Thorne, arXiv 2403.07691): one step of supervised tuning that also tells two answers apart.

    ln P(y) = mean over the answer's learnt tokens of ln π          odds(y) = P(y) / (1 - P(y))
    ℓ = -ln P(chosen) - λ ln σ(ln odds(chosen) - ln odds(rejected))

No reference. The first part is the answer's own mean, as the paper has it; TRL counts the prompt's tokens too, and
takes the mean over all tokens of a batch, which would couple its examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.tasks.answering.objective import Likelihoods

SUREST = -1e-6
"""Nats: an answer that is surer has these odds, which are finite; its odds have no gradient then."""


@dataclass(frozen=True)
class Orpo:
    """See Objective; the margin is the log of the odds ratio, without λ."""

    weight: float
    """λ."""
    refers: ClassVar[bool] = False
    starts_at_chance: ClassVar[bool] = False

    def losses(self, found: Likelihoods) -> Tensor:
        return -mean_of(found.chosen_b, found.chosen_tokens_b) - self.weight * functional.logsigmoid(
            self.margins(found)
        )

    def margins(self, found: Likelihoods) -> Tensor:
        chosen_b = mean_of(found.chosen_b, found.chosen_tokens_b)
        return log_odds(chosen_b) - log_odds(mean_of(found.rejected_b, found.rejected_tokens_b))


def mean_of(sums_b: Tensor, tokens_b: Tensor) -> Tensor:
    """Nats a token; 0 of no token."""
    return sums_b / tokens_b.clamp(min=1)


def log_odds(nats_b: Tensor) -> Tensor:
    """ln (P / (1 - P)) of ln P.

    >>> log_odds(torch.tensor([0.5, 0.8]).log())
    tensor([0.0000, 1.3863])
    """
    below_b = nats_b.clamp(max=SUREST)
    return below_b - torch.log(-torch.expm1(below_b))
