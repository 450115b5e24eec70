"""FlexLoRA: aggregate ΔW itself, hand it out again as its best rank-r factors.

Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", NeurIPS
2024, arXiv 2402.11505.

    U S Vᵀ = SVD( Σ w_k s_k B_k A_k ),   A' = V_rᵀ,   B' = U_r S_r / s

Guarantee: s B' A' is the best approximation of rank r of the exact mean (Eckart-Young): what it cuts off is lost, and
the round's aggregation error says how much. The SVD is of the stacked factors (rank p = Σ r_k): two QR, a p x p core.

A client of rank r_k gets the leading r_k directions, in units of its own scale; its s_k enters the sum. All of S goes
into B, as in the authors' code; splitting it as sqrt S on both sides gives clients other dynamics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from fedlora.lowrank import Product, svd
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, Payload, Recipient, State, StrategySettings, Traits
from strategies.mean import in_dtype_of, zero_product
from strategies.unequal import mean_over_holders, portion


class FlexLoRA(StrategySettings):
    """SVD of the mean ΔW, redistributed."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2402.11505",
            exact=False,
            unequal_ranks=True,
            linear_uploads=False,
            moves_base=False,
            example_level_dp=True,
            redraws=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return mean_over_holders(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        layers = dict(state.adapter.layers)
        layers |= {name: factored(layers[name], product) for name, product in combined.ideal.items()}
        return replace(state, adapter=in_dtype_of(state.adapter, Adapter(layers, combined.mean.dense)))

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        return Payload(portion(state.adapter, recipient.shares))


def factored(layer: LowRank, ideal: Product) -> LowRank:
    """`ideal` as factors of `layer`'s rank and scale; an untrained layer keeps its own. Missing directions are zero."""
    if zero_product(ideal):
        return layer
    r = layer.rank
    U, S, Vh = svd(ideal, rank=r)
    keep = min(r, S.shape[0])
    A_rn, B_mr = torch.zeros_like(layer.A_rn, dtype=S.dtype), torch.zeros_like(layer.B_mr, dtype=S.dtype)
    A_rn[:keep], B_mr[:, :keep] = Vh[:keep], U[:, :keep] * S[:keep] / layer.scale
    return replace(layer, A_rn=A_rn, B_mr=B_mr)
