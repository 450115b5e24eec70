"""Linear layers whose weight is held in few bits: a product in floating-point numbers, with the weight as it is meant.

    y = x Ŵᵀ + c        ∂/∂x = g Ŵ        Ŵ dequantised in float32 for each product, and let go behind it

bitsandbytes' own products are others in every mode: its int8 rounds the inputs to 8 bits as well (in float16, with a
warning each time), but not in training on a CPU; its nf4 goes over to bfloat16 on a CPU that has it, where nothing
needs a gradient, and repacks the weight for that. A run would then train on one model and be measured on another.

Guarantee: the output for a row, and its gradient, depend on that row and on Ŵ alone, in training and evaluation, on
every device, up to the rounding of the product. (LLM.int8's columns of outliers are those of a whole batch.) No weight
ever changes.
Shapes: i inputs, o outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes import functional as bitsandbytes_functional
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from bitsandbytes.nn.modules import fix_4bit_weight_quant_state_from_module
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

LARGEST = 127.0
"""The number that a row's largest weight is held as."""


class _Product(torch.autograd.Function):
    """Once differentiable, in `x` alone. Nothing as large as Ŵ is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_o: Tensor | None, layer: nn.Module) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return functional.linear(x, weight_of(layer).to(x.dtype), None if bias_o is None else bias_o.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (g,) = upstream
        return (g @ weight_of(ctx.layer).to(g.dtype)).to(ctx.dtype), None, None


class FourBits(Linear4bit):  # type: ignore[misc]  # bitsandbytes does not annotate it
    """nf4. PEFT knows it by its parent."""

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return product


class EightBits(Linear8bitLt):  # type: ignore[misc]  # as above
    """int8. PEFT knows it by its parent."""

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return product


@torch.no_grad()
def weight_of(layer: nn.Module) -> Tensor:
    """Ŵ (o, i) in float32."""
    held: Any = layer
    if isinstance(held, Linear4bit):
        fix_4bit_weight_quant_state_from_module(held)
        weight: Tensor = bitsandbytes_functional.dequantize_4bit(held.weight.data, held.weight.quant_state)
        return weight.float()
    scale_o1 = held.state.SCB.to(held.weight.device)[:, None] / LARGEST
    rows_oi: Tensor = held.weight.data.float().mul_(scale_o1)
    return rows_oi


def settle(model: nn.Module) -> None:
    """Let every layer that transformers has quantised compute as this file says."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.__class__ = FourBits
        elif isinstance(module, Linear8bitLt):
            module.init_8bit_state()
            module.__class__ = EightBits


@torch.no_grad()
def dequantise(model: nn.Module) -> None:
    """Put the plain layer of Ŵ in the place of every quantised one, of the class that the architecture has there."""
    held = [(name, module) for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt))]
    for name, module in held:
        model.set_submodule(name, plain_layer(module))
    forget_quantisation(model)


def plain_layer(held: Any) -> nn.Module:
    """transformers' Conv1D holds its weight the other way round."""
    turned = issubclass(held.source_cls, Conv1D)
    sizes = (held.out_features, held.in_features) if turned else (held.in_features, held.out_features)
    with torch.device("meta"):
        plain: Any = (Conv1D if turned else nn.Linear)(*sizes)
    weight_oi = weight_of(held)
    plain.weight = nn.Parameter(weight_oi.mT.contiguous() if turned else weight_oi, requires_grad=False)
    plain.bias = held.bias
    layer: nn.Module = plain
    return layer


def forget_quantisation(model: Any) -> None:
    """What transformers has noted, by which it would refuse to convert and to save the model."""
    for name in ("hf_quantizer", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
