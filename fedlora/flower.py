"""For users of Flower: `fedlora.flower.FedSVD(...)` where FedAvg stood, and what a ClientApp reads its messages by.

    FedIT FFALoRA FedSVD FedExLoRA FLoRA ...   every strategy of the registry, in a ServerApp of one's own
    receive(model, message)                    in the ClientApp, where set_peft_model_state_dict stood
    save(model, arrays, folder)                in evaluate_fn, where model.save_pretrained stood
    add_core(model), tensors_of(model)         for FedSB: its core in a PeftModel, and arrays with it
    rounds(recipe, model, folder)              the whole loop of a recipe, in a ServerApp of one's own
    client_app(find_site)                      its clients

Nothing here imports Flower: each name is found where it stands when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from fedlora.units_path import add_units_to_path

PLACES = {
    "add_core": "fedlora.own_apps.core",
    "tensors_of": "fedlora.own_apps.core",
    "receive": "fedlora.own_apps.receive",
    "save": "fedlora.own_apps.save",
    "rounds": "server.serverapp.own_rounds",
    "client_app": "client.app",
}
STRATEGIES_IN = "server.serverapp.strategy"


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    add_units_to_path()
    if name in PLACES:
        return getattr(importlib.import_module(PLACES[name]), name)
    classes = importlib.import_module(STRATEGIES_IN).OWN_APPS
    if name not in classes:
        raise AttributeError(f"fedlora.flower has no {name!r}; it has: {', '.join([*sorted(classes), *PLACES])}.")
    return classes[name]


def __dir__() -> list[str]:
    add_units_to_path()
    return sorted([*importlib.import_module(STRATEGIES_IN).OWN_APPS, *PLACES])
