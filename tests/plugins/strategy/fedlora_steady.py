"""Federated averaging that goes only a part of the way to the mean, for clients that pull in different directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import Field

from fedlora.updates import Factor, Update, add, subtract
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import weighted_mean


class Steady(StrategySettings):
    """A' = A + pace (Σ w_k A_k - A), and so for B."""

    pace: float = Field(0.5, gt=0, le=1)
    """How far a round goes: 1 is FedIT."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="docs/plugins.md",
            exact=False,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return weighted_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        old, mean = state.adapter.tensors(), combined.mean.tensors()
        moved = add(old, subtract(mean, old), scale=self.pace)
        return replace(state, adapter=state.adapter.with_tensors(moved))
