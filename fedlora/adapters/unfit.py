"""Matrices that no adapter fits: those outside of any linear layer, and those that a model reads past their layer."""

from __future__ import annotations

from torch import nn
from transformers.pytorch_utils import Conv1D

READ_BY_A_SCAN = frozenset({"x_proj", "dt_proj", "out_proj"})
"""Of a Mamba mixer, which hands these layers' weights to a fused scan in training (transformers 5.23, MambaMixer): an
adapter beside them is never computed, and PEFT 0.21 refuses one at `out_proj`. `in_proj` is called as a layer."""


def fused_experts(encoder: nn.Module) -> list[str]:
    """Modules that hold the matrices of several experts in one parameter (experts, m, n): no linear layers."""
    return [
        name
        for name, module in encoder.named_modules()
        if any(parameter.ndim == 3 for parameter in module.parameters(recurse=False)) and "expert" in name
    ]


def bare_attention(encoder: nn.Module) -> str | None:
    """The matrices that an attention keeps outside of any layer, as a sentence names them; None where it has none."""
    for module in encoder.modules():
        kind = type(module).__name__
        matrices = [name for name, parameter in module.named_parameters(recurse=False) if parameter.ndim >= 2]
        if "attention" in kind.lower() and not isinstance(module, (nn.Linear, Conv1D)) and matrices:
            return f"{', '.join(matrices)} of its {kind}"
    return None


def read_by_a_scan(encoder: nn.Module, name: str) -> bool:
    """Whether this linear layer's weight is read past the layer."""
    parent, _, last = name.rpartition(".")
    mixer = type(encoder.get_submodule(parent)).__name__
    return last in READ_BY_A_SCAN and ("mamba" in mixer.lower() or mixer.endswith("Mixer"))
