"""The one line that a ClientApp, or an evaluation at the server, takes in what a strategy of ours sends by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedlora.adapters.peft_names import by_peft_key
from fedlora.adapters.shape import scale_of
from fedlora.config import AdapterSettings
from fedlora.own_apps import live
from fedlora.own_apps.records import Order, named_tensors, order_in, state_in
from fedlora.settings import SettingsError
from fedlora.updates import Adapter


@dataclass(frozen=True)
class Received:
    """What a message held."""

    adapter: Adapter
    """As it is in the model now: with what the client keeps, where a strategy has it keep something."""
    order: Order | None


def receive(model: Any, source: Any, *, arrays: str = "arrays", config: str = "config") -> Received:
    """Load what a strategy sent into a PeftModel: its adapter, what was added to the base, and what is frozen.

    `source`: a Message, or the ArrayRecord that `evaluate_fn` is given; it stands where set_peft_model_state_dict
    stood. `arrays`, `config`: the names of the records, where the app has names of its own.
    """
    content = getattr(source, "content", None)
    record = source if content is None else content[arrays]
    order = None if content is None else order_in(content.config_records.get(config, {}))
    scales = live.scale_in(model)
    adapter, total = state_in({**kept_in(model, order), **named_tensors(record)}, by_layer(scales))
    if order is not None and order.lora_alpha is not None:
        require_scale(adapter, order)
    live.write(model, adapter, total)
    if order is not None:
        live.freeze(model, (*order.trains, *order.keeps))
    return Received(adapter, order)


def kept_in(model: Any, order: Order | None) -> dict[str, Tensor]:
    """What this client keeps, from its own model."""
    return {} if order is None or not order.keeps else by_peft_key(live.read(model).tensors(order.keeps))


def require_scale(adapter: Adapter, order: Order) -> None:
    """What was added to the base was computed with the coordinator's scale of B A."""
    assert order.lora_alpha is not None  # the caller has looked
    for name, layer in adapter.layers.items():
        settings = AdapterSettings(r=layer.rank, alpha=order.lora_alpha, rslora=order.use_rslora)
        if not math.isclose(layer.scale, scale_of(settings, layer.rank)):
            raise SettingsError(
                f"{name} scales B A by {layer.scale:g} here, and the coordinator's lora_alpha={order.lora_alpha:g} "
                f"means {scale_of(settings, layer.rank):g}: give both the same lora_alpha and use_rslora."
            )


def by_layer(scales: Mapping[str, float]) -> Any:
    """A `Scale` of the model's own layers; SettingsError for a layer that it has not adapted."""

    def scale(name: str, rank: int) -> float:
        if name not in scales:
            raise SettingsError(
                f"{name} is adapted on the other side and not here: give ServerApp and ClientApp the same LoraConfig."
            )
        return scales[name]

    return scale
