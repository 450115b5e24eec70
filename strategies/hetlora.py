"""HetLoRA: average zero-padded factors, weighted by the size of each client's ΔW.

Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024, arXiv 2401.06432.

    w_k = ‖ΔW_k‖_F / Σ_j ‖ΔW_j‖_F,   ΔW_k = s_k B_k A_k,   A' = Σ w_k A_k,   B' = Σ w_k B_k

The paper writes ‖B_k A_k‖_F: the same weights where all scales s_k are equal. With its scale it is what the client's
model gained. A client of rank r_k gets the leading r_k rows of A and columns of B. Not exact, like FedIT. The norms are
traces of r x r products. Where every ΔW_k is zero the examples decide. The paper's rank pruning is not part of this.
The weights depend on the data, so under privacy they are post-processing of updates that are already private.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fedlora.lowrank import product_of
from fedlora.norms import frobenius
from fedlora.updates import Adapter, Factor, Update
from strategies.base import Combined, Payload, Recipient, State, StrategySettings, Traits
from strategies.mean import in_dtype_of
from strategies.unequal import PaddedMean, at_rank_of, mean_over_holders, portion


class HetLoRA(StrategySettings):
    """Average A and B with weights by ‖ΔW_k‖."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2401.06432",
            exact=False,
            unequal_ranks=True,
            linear_uploads=False,
            moves_base=False,
            example_level_dp=True,
            fixed_coordinates=True,
            own_weights=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        factors: dict[str, PaddedMean] = {}

        def counted() -> Iterator[Update]:
            for update in self._reweighted(updates):
                for name, layer in update.adapter.layers.items():
                    if layer.rank > 0:
                        factors.setdefault(name, PaddedMean()).add(layer, update.weight)
                yield update

        combined = mean_over_holders(counted(), "examples")
        layers = {name: mean.result() for name, mean in factors.items()}
        return replace(combined, mean=Adapter(layers, combined.mean.dense))

    def _reweighted(self, updates: Iterable[Update]) -> Iterator[Update]:
        for update in updates:
            size = sum(frobenius(product_of(layer)) ** 2 for layer in update.adapter.layers.values()) ** 0.5
            # a silent client keeps a vanishing share, so that a round of silent clients is still a mean
            yield replace(update, weight=size if size > 0 else 1e-12 * update.weight)

    def step(self, state: State, combined: Combined) -> State:
        layers = dict(state.adapter.layers)
        layers |= {name: at_rank_of(mean, layers[name]) for name, mean in combined.mean.layers.items()}
        return replace(state, adapter=in_dtype_of(state.adapter, Adapter(layers, combined.mean.dense)))

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        return Payload(portion(state.adapter, recipient.shares))
