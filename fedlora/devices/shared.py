"""Frozen weights that several models of a process have in common: one memory, each model with its own adapter.

Guarantee: only weights with one fingerprint, on one device, are shared, so that the values are the same bits; what
trains whole is never shared, and nothing writes into W0 (`fedlora.adapters.merge`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedlora.adapters.dense import dense_parameters
from fedlora.adapters.merge import original_of

ADAPTED = ".base_layer"
"""What PEFT puts into the name of a weight that has an adapter."""


@dataclass(frozen=True)
class Shared:
    """A model whose weights another may take."""

    model: nn.Module
    fingerprint: str


def share_weights(
    model: nn.Module,
    fingerprint: str,
    others: tuple[Shared, ...],
    *,
    device: torch.device,
    dense: Collection[str] = (),
) -> None:
    """Let the frozen weights of `model`, which has no adapter yet, be those of the first that fits.

    `dense`: the modules that this model will train whole, which another may hold as frozen ones.
    """
    own = tuple(f"{path}." for path in dense)
    alike = [other for other in others if other.fingerprint == fingerprint]
    for other in alike:
        taken = {name: weight for name, weight in weights_of(other.model).items() if on_same(weight.device, device)}
        for name, parameter in model.named_parameters():
            if name in taken and type(parameter) is nn.Parameter and not name.startswith(own):
                parameter.data = taken[name]
        if taken:
            return


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """W0 of everything that is frozen, by its name in the model as it was loaded. Quantised weights hold more than
    numbers, and are left out."""
    own = {id(parameter) for parameter in dense_parameters(model).values()}
    found = {}
    for path, module in model.named_modules():
        if ".lora_" in f".{path}":
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if type(parameter) is nn.Parameter and id(parameter) not in own:
                weight = original_of(module) if name == "weight" else parameter.detach()
                found[f"{path}.{name}".lstrip(".").replace(ADAPTED, "")] = weight
    return found


def on_same(left: torch.device, right: torch.device) -> bool:
    """`cuda` is the current one of `cuda:0`, `cuda:1`, ...; there is one CPU."""
    if left.type != "cuda" or right.type != "cuda":
        return left.type == right.type
    current = torch.cuda.current_device()
    return len({device.index if device.index is not None else current for device in (left, right)}) == 1
