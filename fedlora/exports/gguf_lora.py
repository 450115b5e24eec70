"""An adapter as llama.cpp and Ollama load it: one GGUF file, as llama.cpp's convert_lora_to_gguf.py writes one.

llama.cpp turns pairs of numbers that stand beside each other, transformers pairs that stand half a head apart: where an
architecture was converted so, the rows of queries and keys are another order there, each head by itself, and with
grouped queries keys have fewer heads. The rows of B follow those of the matrix; A stays.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from fedlora.adapters.uniform import Uniform
from fedlora.exports.source import Source
from fedlora.models.from_gguf import INSTALL
from fedlora.models.location import locate
from fedlora.models.quiet import quiet_transformers
from fedlora.settings import SettingsError

FILE = "adapter.gguf"


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp calls a model type of transformers."""

    name: str
    pairs_beside: bool
    """Whether its rotary pairs stand beside each other in llama.cpp."""


ARCHITECTURES = {
    "llama": Architecture("llama", pairs_beside=True),
    "mistral": Architecture("llama", pairs_beside=True),
    "qwen2": Architecture("qwen2", pairs_beside=False),
}
"""By transformers' model_type. A test reads back the files of Llama, whose layers are Mistral's too, and of Qwen2."""


def require_written(source: Source) -> tuple[Architecture, Any]:
    """The architecture and the base's config; SettingsError where no GGUF adapter means the same."""
    if importlib.util.find_spec("gguf") is None:
        raise SettingsError(f"writing a GGUF file needs the package gguf, which is not installed: {INSTALL}")
    if not source.about.usage.language_servers or source.dense:
        raise SettingsError(
            f"llama.cpp and Ollama do not compute the task {source.about.task}; export it with --kind peft or merged."
        )
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(locate(source.model.id), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{str(error).splitlines()[0]} {source.about.base.advice}") from None
    if config.model_type not in ARCHITECTURES:
        raise SettingsError(
            f"a GGUF adapter of a {config.model_type} model is not written here, only of {', '.join(ARCHITECTURES)}. "
            "Export with --kind peft, and give that folder to llama.cpp's own script: python convert_lora_to_gguf.py "
            "--base BASE FOLDER"
        )
    return ARCHITECTURES[config.model_type], config


def write_gguf(folder: Path, source: Source, change: Uniform, *, dtype: torch.dtype) -> Path:
    """The file; SettingsError, before anything is written, where none of that architecture can be."""
    architecture, config = require_written(source)
    import gguf

    tensors = tensors_for(architecture, config, change)
    folder.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(folder / FILE, architecture.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(change.rank))
    for key in ("id", "revision", "fingerprint"):
        writer.add_string(f"fedlora.base.{key}", getattr(source.about.base, key) or "")
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.to(dtype).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / FILE


def tensors_for(architecture: Architecture, config: Any, change: Uniform) -> dict[str, Tensor]:
    """By llama.cpp's names, in its order of rows; SettingsError for a matrix that it does not have."""
    import gguf

    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tensors: dict[str, Tensor] = {}
    for name, (B_mr, A_rn) in sorted(change.factors.items()):
        there = names.get_name(name)
        if there is None:
            raise SettingsError(f"llama.cpp has no tensor for {name}; export with --kind merged.")
        heads = heads_of(name, config) if architecture.pairs_beside else None
        tensors[f"{there}.weight.lora_a"] = A_rn
        tensors[f"{there}.weight.lora_b"] = B_mr if heads is None else pairs_beside(B_mr, heads=heads)
    return tensors


def heads_of(name: str, config: Any) -> int | None:
    """How many heads the rows of this matrix are of; None where they are turned by no position."""
    if name.endswith(".q_proj"):
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads or config.num_attention_heads) if name.endswith(".k_proj") else None


def pairs_beside(rows_mr: Tensor, *, heads: int) -> Tensor:
    """The rows of each head so that what stood half a head apart stands beside each other.

    >>> pairs_beside(torch.tensor([[0], [1], [2], [3]]), heads=1).flatten().tolist()
    [0, 2, 1, 3]
    """
    halves = rows_mr.reshape(heads, 2, -1, rows_mr.shape[1])
    return halves.transpose(1, 2).reshape(rows_mr.shape)
