"""The one mechanism that touches examples: Poisson sampling, clipping, the Gaussian.

For one logical step, with every example of the dataset drawn independently with probability q:

    S = Σ_drawn min(1, C / ‖g_i‖) g_i        one norm over everything that trains
    p.grad = (S + N(0, σ²C²)) / b            b is public: the realised batch is never used

Source: Abadi et al., Deep Learning with Differential Privacy (arXiv 1607.00133), Algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LEAST_CLIP: Final = 1e-12
"""Smallest C. Far below it squares of float32 gradients vanish: an example would look short, and be added as it is."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """Public parameters of a task's private steps: the engine runs them, the accountant and the ledger price them.

    Adjacency: add or remove one example. Nothing in here depends on the examples; q comes from a public size.
    """

    rate: float
    """q: every step draws every example with this probability."""

    noise_multiplier: float
    """σ: the noise has standard deviation σ · clip."""

    clip: float
    """C: largest L2 norm of one example's gradient; at least LEAST_CLIP."""

    steps: int
    """Logical steps, empty batches included."""

    expected_batch: float
    """b: the denominator, in examples."""

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"the sampling rate must be in (0, 1], got {self.rate}; it is batch size / public size.")
        for name in ("noise_multiplier", "clip", "expected_batch"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number above 0, got {value}; use training without privacy.")
        if self.clip < LEAST_CLIP:
            raise ValueError(
                f"clip must be at least {LEAST_CLIP}, got {self.clip}: float32 cannot measure gradients as small; "
                "raise privacy.clip."
            )
        if self.steps < 1:
            raise ValueError(f"steps must be >= 1, got {self.steps}.")
