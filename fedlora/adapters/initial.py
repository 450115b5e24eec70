"""The coordinator's initial adapter: drawn once from the run's seed, broadcast, never drawn by a client."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedlora.adapters.dense import zero_modules
from fedlora.adapters.live import read
from fedlora.config import AdapterSettings
from fedlora.randomness import generator
from fedlora.settings import SettingsError
from fedlora.updates import DENSE_SEPARATOR, Adapter, LowRank


def initial_adapter(model: nn.Module, settings: AdapterSettings, *, seed: int) -> Adapter:
    """The adapter of round 0 for a model that `inject` prepared; ΔW = 0, so the model starts as its base.

    `lora`: A from `settings.init`, B = 0. `lora_xs`: A and B with orthonormal rows and columns, R = 0.
    Layers differ from each other. What is dense is N(0, 1/width), its bias zero; or zero where the task says so.
    """
    live, zeros = read(model), zero_modules(model)
    layers = {name: _initial(name, layer, settings, seed) for name, layer in live.layers.items()}
    dense = {name: _initial_dense(name, tensor, zeros, seed) for name, tensor in live.dense.items()}
    return Adapter(layers, dense)


def _initial_dense(name: str, tensor: Tensor, zeros: Collection[str], seed: int) -> Tensor:
    if tensor.ndim < 2 or name.partition(DENSE_SEPARATOR)[0] in zeros:
        return torch.zeros_like(tensor)
    stream = generator(seed, *name.split(DENSE_SEPARATOR))
    drawn: Tensor = torch.randn(tensor.shape, generator=stream) / math.sqrt(tensor.shape[-1])
    return drawn


def _initial(name: str, layer: LowRank, settings: AdapterSettings, seed: int) -> LowRank:
    (m, n), r = layer.shape, layer.rank
    stream = generator(seed, "adapter", name, "A")
    if settings.kind == "lora_xs":
        B_rm = orthonormal_rows(r, m, generator(seed, "adapter", name, "B"))
        return replace(layer, A_rn=orthonormal_rows(r, n, stream), B_mr=B_rm.mT.contiguous(), R_rr=torch.zeros(r, r))
    A_rn = orthonormal_rows(r, n, stream) if settings.init == "orthonormal" else kaiming(r, n, stream)
    return replace(layer, A_rn=A_rn, B_mr=torch.zeros(m, r))


def kaiming(r: int, n: int, stream: torch.Generator) -> Tensor:
    """PEFT's default, kaiming_uniform with a = sqrt 5: U(-1/sqrt n, 1/sqrt n)."""
    A_rn: Tensor = (2 * torch.rand(r, n, generator=stream) - 1) / math.sqrt(n)
    return A_rn


def orthonormal_rows(r: int, n: int, stream: torch.Generator) -> Tensor:
    """r random orthonormal rows of length n; r <= n."""
    if r > n:
        raise SettingsError(f"adapter.r={r} is larger than a side of an adapted matrix ({n}); choose r <= {n}.")
    Q_nr, _ = torch.linalg.qr(torch.randn(n, r, generator=stream, dtype=torch.float64))
    rows: Tensor = Q_nr.mT.float().contiguous()
    return rows
