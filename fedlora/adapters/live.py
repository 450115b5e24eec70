"""Read and write the adapter of a live model as plain tensors; choose what trains.

A model here has `encoder` (adapted by `inject`) and `head` (the task's own trainable module), as `fedlora.models`
builds it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fedlora.adapters.inject import ADAPTER, CoredB, adapted_layers
from fedlora.updates import Adapter, Factor, LowRank


def read(model: nn.Module) -> Adapter:
    """A copy on the CPU in float32."""
    layers = {}
    for name, layer in adapted_layers(model.get_submodule("encoder")):
        weights = _weights(layer)
        core = weights.get(Factor.R)
        layers[name] = LowRank(
            B_mr=_copy(weights[Factor.B]),
            A_rn=_copy(weights[Factor.A]),
            scale=float(layer.scaling[ADAPTER]),
            R_rr=None if core is None else _copy(core),
        )
    return Adapter(layers, {name: _copy(tensor) for name, tensor in model.get_submodule("head").named_parameters()})


@torch.no_grad()
def write(model: nn.Module, adapter: Adapter) -> None:
    """Load the adapter into the model. Names and shapes must be the model's own, or ValueError before any change."""
    _require_same(read(model), adapter)
    for name, layer in adapted_layers(model.get_submodule("encoder")):
        given = adapter.layers[name]
        layer.scaling[ADAPTER] = given.scale
        sources = {Factor.A: given.A_rn, Factor.B: given.B_mr, Factor.R: given.R_rr}
        for factor, parameter in _weights(layer).items():
            source = sources[factor]
            assert source is not None  # _require_same compared the names
            parameter.copy_(source)
    for name, parameter in model.get_submodule("head").named_parameters():
        parameter.copy_(adapter.head[name])


def set_trainable(model: nn.Module, factors: Iterable[Factor]) -> list[nn.Parameter]:
    """Let only these factors train; returns their parameters, adapted layers first, the head last."""
    chosen = frozenset(factors)
    model.requires_grad_(False)
    trainable = [
        parameter
        for _, layer in adapted_layers(model.get_submodule("encoder"))
        for factor, parameter in _weights(layer).items()
        if factor in chosen
    ]
    if Factor.HEAD in chosen:
        trainable += list(model.get_submodule("head").parameters())
    for parameter in trainable:
        parameter.requires_grad_(True)
    return trainable


def _weights(layer: LoraLayer) -> dict[Factor, nn.Parameter]:
    down, up = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    if isinstance(up, CoredB):
        return {Factor.A: down.weight, Factor.B: up.outer.weight, Factor.R: up.core.weight}
    return {Factor.A: down.weight, Factor.B: up.weight}


def _require_same(own: Adapter, given: Adapter) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in own.tensors().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in given.tensors().items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"the adapter does not fit the model: {name} is {ours.get(name, 'absent')} in the model and "
            f"{theirs.get(name, 'absent')} in the adapter ({len(wrong)} tensors differ)."
        )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
