"""Fed-SB: train and average only the r x r core R between fixed orthonormal B and A.

Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated
LoRA Fine-Tuning", arXiv 2502.15436, on LoRA-SB (arXiv 2411.19557) and LoRA-XS.

    R' = Σ w_k R_k;   ΔW = s B R A

Guarantees: B R' A = Σ w_k B R_k A exactly; r² numbers a matrix travel each way, whatever m, n and K; noise added to R
enters ΔW linearly; A and B, drawn once by the coordinator, never change (independent factorisations at the clients
would differ by signs and rotations, and averaging R would be wrong).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.updates import Factor, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of


class FedSB(StrategySettings):
    """Average the core R; requires `adapter.kind: lora_xs`."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2502.15436",
            exact=True,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.R, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return factor_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        averaged = in_dtype_of(state.adapter, combined.mean)
        return replace(state, adapter=averaged.with_tensors(state.adapter.tensors([Factor.A, Factor.B])))
