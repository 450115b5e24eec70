"""What other programs make of an adapter folder, by their own rules re-stated: each gives every matrix's change.

PEFT        scale and rank of every matrix, patterns honoured        peft/tuners/lora, read by PEFT itself
vLLM        one scale lora_alpha / r; refuses what it cannot serve    vllm/lora/peft_helper.py, lora_model.py
llama.cpp   lora_alpha / the matrix's own rank; rsLoRA unknown        convert_lora_to_gguf.py, src/llama-adapter.h
Ollama      lora_alpha as a uint32, then as llama.cpp                 convert/convert_llama_adapter.go
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

PREFIX = "base_model.model."
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class RefusedError(Exception):
    """What the program would not load."""


def vllm(folder: Path) -> dict[str, Tensor]:
    config, tensors = contents(folder)
    refused = {"modules_to_save": None, "use_dora": False, "bias": "none", "layer_replication": None}
    for name, only in refused.items():
        if config[name] != only:
            raise RefusedError(f"{name}: {config[name]}")
    rank = config["r"]
    if rank > max(VLLM_RANKS):
        raise RefusedError(f"LoRA rank {rank} is greater than max_lora_rank")
    scale = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
    return {name: scale * (B_mr @ A_rn) for name, (B_mr, A_rn) in pairs(tensors).items()}


def llama_cpp(folder: Path) -> dict[str, Tensor]:
    config, tensors = contents(folder)
    alpha = float(config["lora_alpha"])
    return {name: alpha / A_rn.shape[0] * (B_mr @ A_rn) for name, (B_mr, A_rn) in pairs(tensors).items()}


def ollama(folder: Path) -> dict[str, Tensor]:
    """Go's encoding/json puts no 16.0 into a uint32."""
    written = json.loads((folder / "adapter_config.json").read_text(), parse_float=lambda text: text)
    if not isinstance(written["lora_alpha"], int):
        raise RefusedError(f"json: cannot unmarshal number {written['lora_alpha']} into field of type uint32")
    return llama_cpp(folder)


READERS: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {"vllm": vllm, "llama.cpp": llama_cpp, "ollama": ollama}


def contents(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, load_file(folder / "adapter_model.safetensors")


def pairs(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """(B, A) by module; all of them refuse any other tensor."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        if part not in ("lora_A", "lora_B"):
            raise RefusedError(f"unexpected tensor {name}")
        found.setdefault(module, {})[part] = tensor
    return {module: (both["lora_B"], both["lora_A"]) for module, both in found.items()}


@torch.no_grad()
def served_by(model: nn.Module, changes: Mapping[str, Tensor]) -> nn.Module:
    """The plain model, changed in place."""
    for name, change_mn in changes.items():
        weight: Any = model.get_submodule(name).weight
        weight += change_mn
    return model


def added_by_llama_cpp(file: Path) -> tuple[gguf.GGUFReader, dict[str, torch.Tensor]]:
    """src/llama-adapter.h: every tensor's change is alpha / its own rank · b a."""
    reader = gguf.GGUFReader(file)
    alpha = float(reader.get_field("adapter.lora.alpha").contents())
    tensors = {tensor.name: torch.from_numpy(np.array(tensor.data)).float() for tensor in reader.tensors}
    found = {}
    for name, B_mr in tensors.items():
        if name.endswith(".lora_b"):
            there = name.removesuffix(".lora_b")
            found[there] = alpha / B_mr.shape[1] * (B_mr @ tensors[f"{there}.lora_a"])
    assert 2 * len(found) == len(tensors)
    return reader, found
