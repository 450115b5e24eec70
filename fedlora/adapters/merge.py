"""Strategies that move the base (FedEx-LoRA, FLoRA): fold residuals into a live model's frozen weights, exactly once.

The float32 original of every folded matrix is kept, so that the weights of version v are always W0 + Σ residuals,
computed once and rounded once to the base's dtype: small residuals do not vanish in a bf16 base.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters.inject import adapted_layers
from fedlora.lowrank import Product

ORIGINAL = "_fedlora_original"


@torch.no_grad()
def fold(model: nn.Module, total: Mapping[str, Product]) -> None:
    """Set every adapted matrix to W0 + Δ, Δ the sum of all residuals since version 0 (absent: Δ = 0)."""
    layers = dict(adapted_layers(model))
    unknown = sorted(total.keys() - layers.keys())
    if unknown:
        raise ValueError(f"the residual contains {unknown[0]}, which is not adapted in this model.")
    for name, layer in layers.items():
        base = layer.get_base_layer()
        weight: Tensor = base.weight
        original = getattr(base, ORIGINAL, None)
        if name not in total:
            if original is not None:
                weight.copy_(original)
            continue
        if original is None:
            original = weight.detach().float().clone()
            setattr(base, ORIGINAL, original)
        change = total[name].dense().to(original)
        # Conv1D stores (n, m): only here, and in no strategy, is an update transposed.
        weight.copy_(original + (change.mT if isinstance(base, Conv1D) else change))


def unfold(model: nn.Module) -> None:
    """Back to the base as it was loaded."""
    fold(model, {})
