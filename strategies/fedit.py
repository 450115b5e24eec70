"""FedIT: federated averaging of A and B, each by itself.

Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning" (Shepherd), arXiv 2305.05644.

    A' = Σ w_k A_k,   B' = Σ w_k B_k

Not exact: Σ w_k B_k A_k - B' A' = Σ w_k (B_k - B')(A_k - A'), a cross-covariance over the clients. It is zero for one
client, or when all A_k or all B_k agree. The round's aggregation error says how large it was, unless `report_error` is
off: then the memory does not depend on the number of clients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.updates import Factor, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of, weighted_mean


class FedIT(StrategySettings):
    """Average A and B."""

    report_error: bool = True
    """Keep the factors of a round until its end, to say how far the means are from exact; `false`: the memory is that
    of one adapter, whatever the number of clients."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2305.05644",
            exact=False,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        mean = weighted_mean if self.report_error else factor_mean
        return replace(mean(updates, self.weighting), measured=self.report_error)

    def step(self, state: State, combined: Combined) -> State:
        return replace(state, adapter=in_dtype_of(state.adapter, combined.mean))
