"""FFA-LoRA: A is frozen at its initial value, only B is trained and averaged.

Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024, arXiv 2403.12313.

    A' = A_0,   B' = Σ w_k B_k

Guarantee: B' A_0 = Σ w_k B_k A_0 exactly; noise added to B enters ΔW linearly; A never changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.updates import Factor, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of


class FFALoRA(StrategySettings):
    """Freeze A, average B."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2403.12313",
            exact=True,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return factor_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        averaged = in_dtype_of(state.adapter, combined.mean)
        frozen = state.adapter.tensors([Factor.A])
        return replace(state, adapter=averaged.with_tensors(frozen))
