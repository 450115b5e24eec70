"""Read and write the adapter of a live model as plain tensors; choose what trains.

A model here has LoRA layers (`inject`), and perhaps modules that train whole (`fedlora.adapters.dense`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedlora.adapters.dense import dense_parameters
from fedlora.adapters.inject import ADAPTER, CoredB, adapted_layers
from fedlora.devices.transfers import carried, fetched
from fedlora.updates import Adapter, Factor, LowRank


def read(model: nn.Module) -> Adapter:
    """A copy on the CPU in float32."""
    live = parameters_by_place(model)
    copies = dict(zip(live, fetched(list(live.values())), strict=True))
    layers = {
        name: LowRank(
            B_mr=copies[name, Factor.B],
            A_rn=copies[name, Factor.A],
            scale=float(layer.scaling[ADAPTER]),
            R_rr=copies.get((name, Factor.R)),
        )
        for name, layer in adapted_layers(model)
    }
    return Adapter(layers, {name: copies[name, Factor.DENSE] for name in dense_parameters(model)})


def parameters_by_place(model: nn.Module) -> dict[tuple[str, Factor], nn.Parameter]:
    """Every live parameter of the adapter: of layers, then what is dense."""
    layers = {(name, factor): p for name, layer in adapted_layers(model) for factor, p in _weights(layer).items()}
    return layers | {(name, Factor.DENSE): parameter for name, parameter in dense_parameters(model).items()}


@torch.no_grad()
def write(model: nn.Module, adapter: Adapter) -> None:
    """Load the adapter into the model, whose ranks become the adapter's (0: that matrix stays as its base).

    Names, (m, n), cores and dense tensors must be the model's own, or ValueError before any change.
    """
    _require_same(_sizes_in(model), adapter)
    there = arrived(adapter, device=next(model.parameters()).device)
    for name, layer in adapted_layers(model):
        layer.scaling[ADAPTER] = adapter.layers[name].scale
        for factor, parameter in _weights(layer).items():
            source = there[f"{name}.{factor}"]  # _require_same compared the names
            if parameter.shape == source.shape:
                parameter.copy_(source)
            else:
                _linear(layer, factor).weight = nn.Parameter(source.to(parameter, copy=True), parameter.requires_grad)
    for name, parameter in dense_parameters(model).items():
        parameter.copy_(there[name])


def arrived(adapter: Adapter, *, device: torch.device) -> dict[str, Tensor]:
    """All tensors by flat name; for a GPU, on it."""
    tensors = adapter.tensors()
    return carried(tensors, device) if device.type == "cuda" else tensors


def set_trainable(model: nn.Module, factors: Iterable[Factor]) -> list[nn.Parameter]:
    """Let only these factors train; returns their parameters, adapted layers first, what is dense last."""
    model.requires_grad_(False)
    trainable = list(parameters_of(model, factors).values())
    for parameter in trainable:
        parameter.requires_grad_(True)
    return trainable


def parameters_of(model: nn.Module, factors: Iterable[Factor]) -> dict[str, nn.Parameter]:
    """The live parameters of these factors by flat name, in the order of `set_trainable`; none of rank 0."""
    chosen = frozenset(factors)
    found = {
        f"{name}.{factor}": parameter
        for name, layer in adapted_layers(model)
        for factor, parameter in _weights(layer).items()
        if factor in chosen and parameter.numel() > 0
    }
    return found | (dense_parameters(model) if Factor.DENSE in chosen else {})


def _weights(layer: LoraLayer) -> dict[Factor, nn.Parameter]:
    factors = (Factor.A, Factor.B, Factor.R) if isinstance(layer.lora_B[ADAPTER], CoredB) else (Factor.A, Factor.B)
    return {factor: cast(nn.Parameter, _linear(layer, factor).weight) for factor in factors}


def _linear(layer: LoraLayer, factor: Factor) -> nn.Linear:
    up = layer.lora_B[ADAPTER]
    cored = isinstance(up, CoredB)
    linear: nn.Linear = {
        Factor.A: layer.lora_A[ADAPTER],
        Factor.B: up.outer if cored else up,
        Factor.R: up.core if cored else up,
    }[factor]
    return linear


def _require_same(ours: Mapping[str, tuple[int, ...]], given: Adapter) -> None:
    theirs = _sizes(given)
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"the adapter does not fit the model: {name} is {ours.get(name, 'absent')} in the model and "
            f"{theirs.get(name, 'absent')} in the adapter ({len(wrong)} tensors differ)."
        )


def _sizes(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """What may not differ: (m, n) of every matrix, the core, what is dense."""
    fixed = {name: tuple(t.shape) for name, t in adapter.tensors([Factor.R, Factor.DENSE]).items()}
    return fixed | {name: layer.shape for name, layer in adapter.layers.items()}


def _sizes_in(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The same of a live model, without a copy of it."""
    sizes = {name: tuple(parameter.shape) for name, parameter in dense_parameters(model).items()}
    for name, layer in adapted_layers(model):
        weights = _weights(layer)
        sizes[name] = (weights[Factor.B].shape[0], weights[Factor.A].shape[1])
        if Factor.R in weights:
            sizes[f"{name}.R"] = tuple(weights[Factor.R].shape)
    return sizes
