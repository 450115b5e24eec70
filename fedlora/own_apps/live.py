"""A user's own PeftModel, as `get_peft_model` made it: its adapter read, written, and frozen as a strategy asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from fedlora.adapters import live
from fedlora.adapters.inject import ADAPTER, adapted_layers
from fedlora.adapters.merge import fold
from fedlora.lowrank import Product
from fedlora.settings import SettingsError
from fedlora.updates import DENSE_SEPARATOR, Adapter, Factor

WHOLE = ".modules_to_save."


def inner(model: Any) -> nn.Module:
    """The adapted model inside, whose layers have the names that they have in the base; SettingsError for another."""
    base = getattr(model, "base_model", None)
    config = getattr(model, "peft_config", {}).get(ADAPTER)
    found = getattr(base, "model", None)
    if config is None or not isinstance(found, nn.Module):
        raise SettingsError(
            f"a {type(model).__name__} is no PeftModel with an adapter called {ADAPTER!r}: "
            "make it by get_peft_model(model, LoraConfig(...))."
        )
    layers = dict(adapted_layers(found))
    if not layers:
        raise SettingsError(f"the adapter is {config.peft_type}: only LoRA of linear layers can be federated.")
    for name, layer in layers.items():
        if ADAPTER not in layer.lora_A or ADAPTER in layer.lora_magnitude_vector:
            raise SettingsError(
                f"{name} has no plain LoRA of a matrix (DoRA, or an embedding): it cannot be federated."
            )
    return found


def scale_in(model: Any) -> Mapping[str, float]:
    """s of every layer, by name."""
    return {name: float(layer.scaling[ADAPTER]) for name, layer in adapted_layers(inner(model))}


def read(model: Any) -> Adapter:
    """A copy on the CPU in float32; what trains whole (modules_to_save) is in it."""
    found = inner(model)
    dense = {name: p.detach().to("cpu", torch.float32, copy=True) for name, p in whole(found).items()}
    return Adapter(live.read(found).layers, dense)


@torch.no_grad()
def write(model: Any, adapter: Adapter, total: Mapping[str, Product]) -> None:
    """Load the adapter, and set the base to W0 + `total`; SettingsError where they do not fit, before any change."""
    found = inner(model)
    own = whole(found)
    if (names := own.keys() ^ adapter.dense.keys()) and adapter.dense:
        raise SettingsError(f"{min(names)} trains whole on one side alone: give both sides the same modules_to_save.")
    try:
        live.write(found, Adapter(adapter.layers))
    except ValueError as error:
        raise SettingsError(f"{error} Give ServerApp and ClientApp the same LoraConfig and base model.") from None
    if total:
        require_plain_weights(found)
    fold(found, total)
    for name, tensor in adapter.dense.items():
        own[name].copy_(tensor)


def require_plain_weights(found: nn.Module) -> None:
    """A residual cannot be added to weights of 4 or 8 bits."""
    for name, layer in adapted_layers(found):
        weight = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise SettingsError(
                f"{name} is quantised ({weight.dtype}), and this strategy adds to the base's weights: load the model "
                "in bfloat16, or choose a strategy that moves no base (fedlora strategies)."
            )


def freeze(model: Any, trains: Collection[Factor]) -> None:
    """Let only these train: factors of every adapted layer, and modules_to_save for `Factor.DENSE`."""
    found = inner(model)
    live.set_trainable(found, [factor for factor in trains if factor is not Factor.DENSE])
    for parameter in whole(found).values():
        parameter.requires_grad_(Factor.DENSE in trains)


def whole(found: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of modules_to_save under flat names: score/weight."""
    parts = ((name, parameter) for name, parameter in found.named_parameters() if WHOLE in name)
    named = ((*name.partition(WHOLE), parameter) for name, parameter in parts)
    return {
        f"{path}{DENSE_SEPARATOR}{rest.removeprefix(f'{ADAPTER}.')}": parameter
        for path, _, rest, parameter in named
        if rest.startswith(f"{ADAPTER}.")
    }
