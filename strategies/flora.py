"""FLoRA: stack the clients' factors, fold the stack into the base, start the next round from fresh factors.

Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations", NeurIPS 2024,
arXiv 2409.05976.

    W0' = W0 + [w_1 s_1 B_1 ... w_K s_K B_K] [A_1; ...; A_K] = W0 + Σ w_k s_k B_k A_k;   A' drawn anew, B' = 0

Guarantee: exact for any weights and any ranks. Price: the download grows with the number of clients (until dense is
smaller), and every round starts from a random A with B = 0, which slows many-round training (its users' own reports).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from fedlora.randomness import generator
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, Payload, Recipient, State, StrategySettings, Traits
from strategies.mean import in_dtype_of
from strategies.unequal import mean_over_holders, portion
from strategies.versions import missing, moved


class FLoRA(StrategySettings):
    """Stack, merge, start afresh."""

    seed: int = 0
    """Seed of the factors that each round starts from."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2409.05976",
            exact=True,
            unequal_ranks=True,
            linear_uploads=False,
            moves_base=True,
            example_level_dp=True,
            redraws=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return mean_over_holders(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        version = state.base_version + 1
        layers = {name: self._fresh(name, layer, version) for name, layer in state.adapter.layers.items()}
        fresh = in_dtype_of(state.adapter, Adapter(layers, combined.mean.dense))
        return moved(replace(state, adapter=fresh), dict(combined.ideal))

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        since, residual = missing(state, recipient.held_version)
        return Payload(portion(state.adapter, recipient.shares), state.base_version, residual, since)

    def residual_rank(self, *, clients: int, r: int) -> int:
        """All factors, stacked."""
        return clients * r

    def _fresh(self, name: str, layer: LowRank, version: int) -> LowRank:
        """A ~ U(-1/sqrt n, 1/sqrt n), PEFT's default; B = 0."""
        stream = generator(self.seed, "flora", version, name)
        r, n = layer.A_rn.shape
        A_rn = (2 * torch.rand(r, n, generator=stream) - 1) / n**0.5
        return replace(layer, A_rn=A_rn.to(layer.A_rn.dtype), B_mr=torch.zeros_like(layer.B_mr))
