"""Adapters and updates with random factors: square and oblong layers, α/r other than one, unequal weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import State, Strategy
from strategies.registry import build
from strategies.versions import newest

SHAPES = {"square": (12, 12), "tall": (14, 6), "wide": (5, 16)}
RANK, SCALE = 3, 2.5


def random_adapter(seed: int, *, core: bool = False, size: float = 1.0, dtype: torch.dtype = torch.float64) -> Adapter:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return (size * torch.randn(*shape, generator=draw, dtype=torch.float64)).to(dtype)

    layers = {
        name: LowRank(normal(m, RANK), normal(RANK, n), SCALE, normal(RANK, RANK) if core else None)
        for name, (m, n) in SHAPES.items()
    }
    return Adapter(layers, {"head/weight": normal(3, 4), "head/bias": normal(3)})


def kind_of(strategy: Strategy) -> str:
    """The adapter kind that it trains."""
    return "lora_xs" if Factor.R in strategy.trains(1) else "lora"


def start(strategy: Strategy, *, dtype: torch.dtype = torch.float64) -> State:
    return strategy.init(random_adapter(0, core=kind_of(strategy) == "lora_xs", dtype=dtype))


def updates_for(strategy: Strategy, state: State, *, round_number: int = 1, clients: int = 4) -> list[Update]:
    """What clients that trained would send: the factors that the strategy trains are moved, each client its own way."""
    trains = strategy.trains(round_number)
    updates = []
    for client in range(clients):
        own = state.adapter.tensors(trains)
        moved = {
            name: tensor
            + torch.randn(tensor.shape, generator=torch.Generator().manual_seed(100 * client + i)).to(tensor)
            for i, (name, tensor) in enumerate(own.items())
        }
        updates.append(Update(f"client-{client}", float(1 + client**2), state.adapter.with_tensors(moved)))
    return updates


def ideal_dense(updates: list[Update], *, uniform: bool = False) -> dict[str, torch.Tensor]:
    """Σ w_k s_k B_k A_k, formed outright: the slow clear twin."""
    total = sum(1.0 if uniform else update.weight for update in updates)
    return {
        name: sum((1.0 if uniform else u.weight) / total * u.adapter.layers[name].dense() for u in updates)
        for name in updates[0].adapter.layers
    }


def served_dense(old: State, new: State) -> dict[str, torch.Tensor]:
    """The new adapter's ΔW plus what the round added to the base."""
    served = {name: layer.dense() for name, layer in new.adapter.layers.items()}
    for residual in newest(new, old.base_version):
        for name, product in residual.items():
            served[name] = served[name] + product.dense()
    return served


def built(name: str, **options: object) -> Strategy:
    return build(name, options)


def with_weights(updates: list[Update], weight: float) -> list[Update]:
    return [replace(update, weight=weight) for update in updates]
