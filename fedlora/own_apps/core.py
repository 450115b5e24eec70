"""A core R between fixed B and A (LoRA-XS, which Fed-SB trains) in a user's own PeftModel: PEFT's LoRA has none."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedlora.adapters import initial_adapter
from fedlora.adapters.inject import ADAPTER, CoredB, adapted_layers
from fedlora.adapters.peft_names import by_peft_key
from fedlora.config import AdapterSettings
from fedlora.own_apps import live


def add_core(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Put the core into every LoRA layer of a PeftModel, B and A orthonormal, R zero; what `tensors_of` gives.

    Both sides call it: the ServerApp for `initial_arrays=ArrayRecord(add_core(model))`, the ClientApp before `receive`.
    """
    found = live.inner(model)
    for _, layer in adapted_layers(found):
        if not isinstance(layer.lora_B[ADAPTER], CoredB):
            layer.lora_B[ADAPTER] = CoredB(layer.lora_B[ADAPTER])
    live.write(model, initial_adapter(found, AdapterSettings(kind="lora_xs"), seed=seed), {})
    return tensors_of(model)


def tensors_of(model: Any) -> dict[str, Tensor]:
    """As `get_peft_model_state_dict`, with the core as lora_R: what a ClientApp answers after training one."""
    return by_peft_key(live.read(model).tensors())
