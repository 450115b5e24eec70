"""DPO (Rafailov et al., arXiv 2305.18290), with cDPO's label smoothing ε (Mitchell, "A note on DPO with noisy
preferences", 2023).

    z = β [ (ln π(chosen) - ln π_ref(chosen)) - (ln π(rejected) - ln π_ref(rejected)) ]
    ℓ = -(1 - ε) ln σ(z) - ε ln σ(-z)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from fedlora.tasks.answering.objective import Likelihoods


@dataclass(frozen=True)
class Dpo:
    """See Objective; the margin is z."""

    beta: float
    label_smoothing: float
    refers: ClassVar[bool] = True
    starts_at_chance: ClassVar[bool] = True

    def losses(self, found: Likelihoods) -> Tensor:
        margins_b, smoothing = self.margins(found), self.label_smoothing
        return -(1 - smoothing) * functional.logsigmoid(margins_b) - smoothing * functional.logsigmoid(-margins_b)

    def margins(self, found: Likelihoods) -> Tensor:
        chosen_b, rejected_b = found.gains
        return self.beta * (chosen_b - rejected_b)
