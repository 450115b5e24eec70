"""Strategies that move the base (FedEx-LoRA, FLoRA): fold residuals into a live model's frozen weights, exactly once.

The original of every folded matrix is kept as it was loaded, so that the weights of version v are always W0 + Σ
residuals, computed once in float32 and rounded once to the base's dtype: small residuals do not vanish in a bf16 base.
W0's memory is never written to: other models of this process may share it (`fedlora.adapters.shared`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters.inject import adapted_layers
from fedlora.lowrank import Product, is_identity

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
        original = original_of(base)
        if name not in total:
            base.weight.data = original
            continue
        if getattr(base, ORIGINAL, None) is None:
            setattr(base, ORIGINAL, original)
        change = dense_on(original.device, total[name])
        # Conv1D stores (n, m): only here, and in no strategy, is an update transposed.
        moved = original.float() + (change.mT if isinstance(base, Conv1D) else change)
        base.weight.data = moved.to(original.dtype).contiguous()


def original_of(base: nn.Module) -> Tensor:
    """W0 of a layer, whatever has been folded into it."""
    kept: Tensor | None = getattr(base, ORIGINAL, None)
    weight: Any = base.weight
    found: Tensor = weight.detach() if kept is None else kept
    return found


def dense_on(device: torch.device, product: Product) -> Tensor:
    """The residual in float32 where the weights are: its factors travel, and not the matrix."""
    if device.type == "cpu" or is_identity(product.U_mp) or is_identity(product.V_pn):
        return product.dense().float().to(device)
    return Product(product.U_mp.to(device), product.V_pn.to(device)).times().float()


def unfold(model: nn.Module) -> None:
    """Back to the base as it was loaded."""
    fold(model, {})
