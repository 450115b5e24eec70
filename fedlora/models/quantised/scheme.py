"""How a base is held in few bits, and how transformers is asked to load it so.

Matrices of linear layers are quantised while they are read, on the CPU, whatever the device: so that all machines hold
the same bits and compare one fingerprint. Words, norms, the output matrix and what trains stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig

from fedlora.config import ModelSettings
from fedlora.models.given import folder_given
from fedlora.settings import SettingsError

INSTALL = "pip install 'fedlora[quantised]'"


@dataclass(frozen=True)
class Scheme:
    """One way to hold a matrix."""

    bits: int
    said: str
    """All that the bits depend on besides the weights: part of the fingerprint."""
    arguments: Mapping[str, bool | str]
    """Of transformers' BitsAndBytesConfig."""

    @property
    def written(self) -> str:
        """The arguments as Python.

        >>> SCHEMES["nf4"].written
        "load_in_4bit=True, bnb_4bit_quant_type='nf4'"
        """
        return ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())


SCHEMES: dict[str, Scheme] = {
    "nf4": Scheme(
        4,
        "bitsandbytes NF4, blocks of 64 with a scale in float32, no double quantisation",
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},  # arXiv 2305.14314
    ),
    "int8": Scheme(8, "bitsandbytes int8, a scale in float32 for each row", {"load_in_8bit": True}),
}


def scheme_of(load_dtype: str) -> Scheme | None:
    """None where the base is held in floating-point numbers."""
    return SCHEMES.get(load_dtype)


def loading_options(load_dtype: str) -> dict[str, Any]:
    """What `from_pretrained` is told besides; nothing where the base is held in floating-point numbers."""
    scheme = scheme_of(load_dtype)
    if scheme is None:
        return {}
    return {"quantization_config": BitsAndBytesConfig(**scheme.arguments), "device_map": {"": "cpu"}}


def require_quantisable(settings: ModelSettings, config: PretrainedConfig) -> None:
    """SettingsError where a base cannot be held as the settings say; nothing is asked of any other."""
    if scheme_of(settings.load_dtype) is None:
        return
    asked = f"model.load_dtype={settings.load_dtype}"
    if find_spec("bitsandbytes") is None:
        raise SettingsError(f"{asked} needs the package bitsandbytes, which is not installed; install it: {INSTALL}")
    if getattr(config, "quantization_config", None):
        raise SettingsError(
            f"{asked}: {settings.id!r} is quantised already, and is loaded as it is; remove model.load_dtype, or give "
            "the model that it was made from."
        )
    if folder_given(settings.id) is not None:
        raise SettingsError(
            f"{asked} quantises a base while it is read, and {settings.id!r} was given as an object; give its folder "
            "or its hub id."
        )


def settled(model: nn.Module) -> nn.Module:
    """A model as transformers loaded it with `loading_options`: from now on its products are those of `layers`."""
    from fedlora.models.quantised.layers import settle  # bitsandbytes is no part of every installation

    settle(model)
    return model


def in_floats(model: nn.Module) -> nn.Module:
    """The same base with every matrix in float32, in place: what its products have been computed with all along."""
    from fedlora.models.quantised.layers import dequantise  # as above

    dequantise(model)
    return model
