"""Honest clients, other factors of the same change, and one round of the stage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from fedlora.config.clients.robust import RobustSettings
from fedlora.settings import parse
from fedlora.updates import Adapter, Factor, Update
from server.stages.base import Round
from server.stages.robust.stage import robust
from strategies.registry import STRATEGIES
from tests.strategies.examples import built, random_adapter

BOTH = (Factor.A, Factor.B, Factor.DENSE)
LINEAR = sorted(name for name in STRATEGIES if built(name).traits.linear_uploads)
RULES_ON_PRODUCTS = ("clip-to-median", "screen", "multi-krum")


class StoppedError(Exception):
    """A round that cannot be judged."""


def settings(**values: Any) -> RobustSettings:
    return parse(RobustSettings, values)


def honest(clients: int = 7, *, size: float = 0.1, factors: tuple[Factor, ...] = BOTH) -> tuple[Adapter, list[Update]]:
    """A state, and clients that move it a little, each its own way."""
    sent = random_adapter(0)
    updates = []
    for client in range(clients):
        step = random_adapter(100 + client, size=size).tensors(factors)
        own = sent.tensors(factors)
        updates.append(Update(f"c{client}", 10.0 + client, sent.with_tensors({n: t + step[n] for n, t in own.items()})))
    return sent, updates


def regauged(update: Update, seed: int) -> Update:
    """The same ΔW from other factors: B G and G⁻¹ A, another G for each matrix."""
    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in update.adapter.layers.items():
        G = torch.eye(layer.rank, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=draw, dtype=torch.float64)
        layers[name] = replace(layer, B_mr=layer.B_mr @ G, A_rn=torch.linalg.inv(G) @ layer.A_rn)
    return replace(update, adapter=replace(update.adapter, layers=layers))


def run_stage(updates, sent, *, trains=BOTH, **values):
    """(what goes on, {position: code}) of one round."""
    codes: dict[int, str] = {}

    def judge(position, *, change_norm=None, code=None):
        if code is not None:
            codes[position] = code

    going_on = list(robust(updates, settings(**values), Round(1, sent, tuple(trains), judge, StoppedError)))
    return going_on, codes


def flat(adapter: Adapter) -> torch.Tensor:
    """Every weight that the adapter changes, formed outright."""
    dense = [adapter.layers[name].dense().flatten() for name in sorted(adapter.layers)]
    return torch.cat([*dense, *(tensor.flatten() for tensor in adapter.tensors([Factor.DENSE]).values())])
