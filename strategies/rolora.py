"""RoLoRA: train and average B in odd rounds, A in even rounds.

Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", arXiv 2502.01755.

    odd rounds:   B' = Σ w_k B_k, A' = A          even rounds:   A' = Σ w_k A_k, B' = B

Guarantee: exact in every round, because all clients share the other factor. B comes first: at B = 0 the gradient of A
is s Bᵀ G = 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.updates import Factor, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of


class RoLoRA(StrategySettings):
    """Alternate between B and A."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2502.01755",
            exact=True,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.B if round_number % 2 else Factor.A, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return factor_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        return replace(state, adapter=in_dtype_of(state.adapter, combined.mean))
