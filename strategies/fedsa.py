"""FedSA-LoRA: train A and B, share A; every client keeps its own B and dense parameters.

Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025, arXiv 2410.01463.

    A' = Σ w_k A_k;   client k serves ΔW_k = s B_k A'

There is no global model, so no aggregation error and nothing for a shared test set: quality is the unweighted mean of
what clients measure on their own test examples with their own B, when they receive A. A client that is new starts
from B = 0 and the run's first dense parameters. Half of the bytes of FedIT, both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.updates import Factor, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of


class FedSALoRA(StrategySettings):
    """Average A; B and the dense parameters stay where they were trained."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2410.01463",
            exact=False,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
            keeps=frozenset({Factor.B, Factor.DENSE}),
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return factor_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        return replace(state, adapter=in_dtype_of(state.adapter, combined.mean))
