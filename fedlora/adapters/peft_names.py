"""PEFT's names of an adapter's tensors, as `get_peft_model_state_dict` gives them, and ours.

base_model.model.<layer>.lora_A.weight (r, n)        <layer>.A
base_model.model.<layer>.lora_B.weight (m, r)        <layer>.B
base_model.model.<layer>.lora_R.weight (r, r)        <layer>.R, the core of LoRA-XS, which PEFT has no name for
base_model.model.<module>.<parameter>                <module>/<parameter>, of modules_to_save
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from fedlora.settings import SettingsError
from fedlora.updates import DENSE_SEPARATOR, Adapter, Factor, LowRank, Tensors

PREFIX = "base_model.model."
FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<factor>[ABR])\.weight")
UNFIT = {
    "lora_magnitude_vector": "DoRA: the mean of magnitudes is no magnitude of the mean; set use_dora=False",
    "lora_embedding_": "LoRA of an embedding; leave it out of target_modules, or train it whole (modules_to_save)",
    ".lora_A.bias": "a bias of LoRA; set lora_bias=False",
    ".lora_B.bias": "a bias of LoRA; set lora_bias=False",
    ".default.": "a name from model.state_dict(); give get_peft_model_state_dict(model)",
}
"""Parts of names that no strategy here aggregates, and why."""

Scale = Callable[[str, int], float]
"""s of a layer by its name and its rank."""


def flat_name(key: str) -> str:
    """Our name of PEFT's; SettingsError for what is no LoRA of a matrix.

    >>> flat_name("base_model.model.layers.0.q_proj.lora_A.weight"), flat_name("base_model.model.score.weight")
    ('layers.0.q_proj.A', 'score/weight')
    """
    for part, why in UNFIT.items():
        if part in key:
            raise SettingsError(f"the array {key} is {why}.")
    name = key.removeprefix(PREFIX)
    if name == key:
        raise SettingsError(
            f"the array {key} does not begin with {PREFIX}: it is no adapter's. "
            "initial_arrays is ArrayRecord(get_peft_model_state_dict(model))."
        )
    found = FACTOR.fullmatch(name)
    if found:
        return f"{found['layer']}.{found['factor']}"
    module, _, parameter = name.rpartition(".")
    return f"{module}{DENSE_SEPARATOR}{parameter}"


def peft_key(name: str) -> str:
    """PEFT's name of ours.

    >>> peft_key("layers.0.q_proj.B"), peft_key("score/weight")
    ('base_model.model.layers.0.q_proj.lora_B.weight', 'base_model.model.score.weight')
    """
    if DENSE_SEPARATOR in name:
        return f"{PREFIX}{name.replace(DENSE_SEPARATOR, '.')}"
    layer, _, factor = name.rpartition(".")
    return f"{PREFIX}{layer}.lora_{factor}.weight"


def by_peft_key(tensors: Tensors) -> dict[str, Tensor]:
    """Tensors with flat names under PEFT's."""
    return {peft_key(name): tensor for name, tensor in tensors.items()}


def adapter_of(tensors: Tensors, scale: Scale) -> Adapter:
    """The adapter that tensors with PEFT's names are; SettingsError where they are none."""
    factors: dict[str, dict[str, Tensor]] = {}
    dense = {}
    for key, tensor in tensors.items():
        name = flat_name(key)
        if DENSE_SEPARATOR in name:
            dense[name] = tensor
            continue
        if tensor.ndim != 2:
            raise SettingsError(
                f"the array {key} has {tensor.ndim} dimensions: only LoRA of linear layers is averaged."
            )
        layer, _, factor = name.rpartition(".")
        factors.setdefault(layer, {})[factor] = tensor
    if not factors:
        raise SettingsError("the arrays hold no lora_A and lora_B: give ArrayRecord(get_peft_model_state_dict(model)).")
    return Adapter({name: layer_of(name, found, scale) for name, found in sorted(factors.items())}, dense)


def layer_of(name: str, found: Tensors, scale: Scale) -> LowRank:
    if missing := {Factor.A, Factor.B} - found.keys():
        raise SettingsError(f"the arrays of {name} lack lora_{min(missing)}.")
    try:
        return LowRank(found["B"], found["A"], scale(name, int(found["A"].shape[0])), found.get("R"))
    except ValueError as error:
        raise SettingsError(f"{name}: {error}") from None
