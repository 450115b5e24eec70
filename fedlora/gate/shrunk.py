"""Less of an adapter: the base plus a part of what was learnt, which forgets less and has learnt less (W0 + λ ΔW)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fedlora.adapters.inject import ADAPTER, adapted_layers

SCALES = (0.75, 0.5, 0.25)


@contextmanager
def shrunk(model: nn.Module, scale: float) -> Iterator[None]:
    """Every B times `scale` until the end; a head stays. Afterwards it is bit for bit as before."""
    layers: list[Any] = [layer for _, layer in adapted_layers(model)]
    factors = [layer.lora_B[ADAPTER].weight for layer in layers]
    before = [factor.detach().clone() for factor in factors]
    try:
        with torch.no_grad():
            for factor in factors:
                factor.mul_(scale)
        yield
    finally:
        with torch.no_grad():
            for factor, own in zip(factors, before, strict=True):
                factor.copy_(own)
