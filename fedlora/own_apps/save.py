"""A state of a ServerApp of one's own as a PEFT adapter folder for the original base: FlowerTune's `peft_N`.

`model.save_pretrained` writes the adapter alone: what FedEx-LoRA and FLoRA have added to the base would be lost.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as packed

from fedlora.adapters.inject import ADAPTER
from fedlora.adapters.peft_names import by_peft_key
from fedlora.adapters.uniform import changes, uniform
from fedlora.exports.folder import TENSORS, lora_tensors
from fedlora.files import write_atomically
from fedlora.own_apps import live
from fedlora.own_apps.receive import by_layer
from fedlora.own_apps.records import ArrayLike, named_tensors, state_in


def save(model: Any, arrays: Mapping[str, ArrayLike], folder: str | Path) -> Path:
    """Write `arrays`, as `evaluate_fn` gets them, to a folder that PeftModel.from_pretrained(base, folder) loads.

    Guarantee: the folder computes what the state serves, whatever the strategy: rank and scale are made uniform, with
    `lora_alpha` = r (`fedlora.adapters.uniform`). `model` is the PeftModel whose settings the folder has; nothing in it
    changes.
    """
    folder = Path(folder)
    adapter, total = state_in(named_tensors(arrays), by_layer(live.scale_in(model)))
    change = uniform(changes(adapter, total))
    config = copy.copy(model.peft_config[ADAPTER])
    config.r = config.lora_alpha = change.rank
    config.use_rslora, config.rank_pattern, config.alpha_pattern = False, {}, {}
    config.target_modules, config.inference_mode = sorted(change.factors), True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    whole = {key: tensor.contiguous() for key, tensor in by_peft_key(adapter.dense).items()}
    write_atomically(folder / TENSORS, packed({**lora_tensors(change), **whole}))
    return folder
