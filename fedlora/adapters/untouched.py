"""The model as it was loaded, for as long as somebody looks at it: no adapter, and every matrix at W0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedlora.adapters.inject import adapted_layers
from fedlora.adapters.merge import ORIGINAL


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Adapters off, and what a strategy has folded into the base taken out, until the end.

    Guarantee: afterwards the model is bit for bit what it was, and what trains in it still does; one within another
    changes nothing.
    """
    layers = [layer for _, layer in adapted_layers(model)]
    off = [layer._disable_adapters for layer in layers]
    bases = [base for base in (layer.get_base_layer() for layer in layers) if getattr(base, ORIGINAL, None) is not None]
    moved = [base.weight.detach() for base in bases]
    try:
        for layer in layers:
            layer._disable_adapters = True  # PEFT's own switch would also decide what trains
        with torch.no_grad():
            for base in bases:
                base.weight.data = getattr(base, ORIGINAL)
        yield
    finally:
        with torch.no_grad():
            for base, weight in zip(bases, moved, strict=True):
                base.weight.data = weight
        for layer, before in zip(layers, off, strict=True):
            layer._disable_adapters = before
