"""Server optimisers: the mean of the updates as a pseudo-gradient, with momentum or adaptive steps.

Hsu et al., arXiv 1909.06335 (FedAvgM); Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv 2003.00295,
algorithm 2 (FedAdam, FedYogi; no bias correction, v starts at τ²). With Δ = what the strategy's mean changed:

    FedAvgM   m' = β1 m + Δ                      x' = x + η m'
    FedAdam   m' = β1 m + (1 - β1) Δ             v' = β2 v + (1 - β2) Δ²                    x' = x + η m' / (√v' + τ)
    FedYogi   as FedAdam, but                    v' = v - (1 - β2) Δ² sign(v - Δ²)

Moments are kept coordinate by coordinate, so they need coordinates that mean the same in every round: strategies that
re-factor A and B (FedSVD, FlexLoRA), draw them afresh (FLoRA), or serve ΔW partly through the base or a refinement of
the mean (FedEx-LoRA, LoRA-FAIR) are refused (`strategies/compatibility`). What is served is no longer the mean: no
aggregation error is reported.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedlora.settings import Settings
from fedlora.updates import Adapter, Factor, Tensors, Update
from strategies.base import Combined, Payload, Recipient, State, Strategy, Traits

FIRST, SECOND = "server_optimizer/m/", "server_optimizer/v/"


class ServerOptimizer(Settings):
    """What the coordinator does with the mean of a round's updates."""

    name: Literal["fedavgm", "fedadam", "fedyogi"]
    """Momentum, or adaptive steps."""

    lr: float = Field(1.0, gt=0)
    """Server learning rate η; FedAvgM wants about 1, the adaptive ones 1e-3 to 1e-1."""

    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""

    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""

    tau: float = Field(1e-3, gt=0)
    """Adaptivity τ: larger is closer to plain averaging with momentum."""


@dataclass(frozen=True)
class Optimised:
    """A strategy whose step goes through a server optimiser; it means something where coordinates are fixed."""

    inner: Strategy
    optimizer: ServerOptimizer

    @property
    def traits(self) -> Traits:
        return replace(self.inner.traits, exact=False)

    def trains(self, round_number: int) -> frozenset[Factor]:
        return self.inner.trains(round_number)

    def init(self, adapter: Adapter) -> State:
        return self.inner.init(adapter)

    def combine(self, updates: Iterable[Update]) -> Combined:
        return replace(self.inner.combine(updates), measured=False)

    def step(self, state: State, combined: Combined) -> State:
        averaged = self.inner.step(state, combined)
        memory = {**state.memory, **averaged.memory}
        after = averaged.adapter.tensors()
        for name, before in state.adapter.tensors().items():
            if torch.equal(after[name], before):  # this round did not train it: its moments wait
                continue
            change = after[name].double() - before.double()
            moved, moments = self._moved(change, name, memory)
            memory |= moments
            after[name] = (before.double() + moved).to(before.dtype)
        return replace(averaged, adapter=averaged.adapter.with_tensors(after), memory=memory)

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        return self.inner.broadcast(state, recipient)

    def residual_rank(self, *, clients: int, r: int) -> int:
        return self.inner.residual_rank(clients=clients, r=r)

    def _moved(self, change: Tensor, name: str, memory: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """The step to take for one tensor's pseudo-gradient, and its new moments."""
        settings = self.optimizer
        m = memory.get(FIRST + name, torch.zeros_like(change))
        if settings.name == "fedavgm":
            m = settings.beta1 * m + change
            return settings.lr * m, {FIRST + name: m}
        v = memory.get(SECOND + name, torch.full_like(change, settings.tau**2))
        m, square = settings.beta1 * m + (1 - settings.beta1) * change, change.square()
        if settings.name == "fedadam":
            v = settings.beta2 * v + (1 - settings.beta2) * square
        else:
            v = v - (1 - settings.beta2) * square * torch.sign(v - square)
        return settings.lr * m / (v.sqrt() + settings.tau), {FIRST + name: m, SECOND + name: v}
