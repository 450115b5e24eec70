"""The result of a run as a PEFT adapter folder: `PeftModel.from_pretrained(base, folder)` loads it.

What a strategy folded into the base (FedEx-LoRA, FLoRA), a LoRA-XS core and every scale are merged into the exported A
and B, so the folder always belongs to the *original* base, and means the same to whoever reads it.

Guarantee: the lines in the folder's README.md, which are the task's own (`TaskKind.usage`), compute the served model's
logits, of many texts at once and whatever the base: in the precision that it was held in here and not the checkpoint's
own (in float32 to its rounding, in bfloat16 to that). The folder may be carried to another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters.inject import adapted_layers
from fedlora.adapters.uniform import changes, uniform
from fedlora.exports.about import About
from fedlora.exports.folder import write_folder
from fedlora.exports.licences import stated_by
from fedlora.exports.made import Made
from fedlora.lowrank import Product
from fedlora.models.named import NamedBase
from fedlora.updates import Adapter


def export_adapter(
    folder: Path,
    adapter: Adapter,
    *,
    total: Mapping[str, Product],
    base: NamedBase,
    model: nn.Module,
    task: str,
    labels: tuple[str, ...],
    max_tokens: int,
    privacy: str | None = None,
    made: Made | None = None,
) -> None:
    """Write the adapter folder; `total` is what the run added to the base, matrix by matrix.

    `model`: the adapted base model, by whose class PEFT's AutoPeftModel knows what to load. `task`: a name in
    `fedlora.tasks.registry`. `privacy`: a paragraph on what the run has cost the sites' data, for the folder's README.
    `made`: how the run went, for its card.
    """
    about = About(
        task,
        labels,
        max_tokens,
        base,
        architecture=class_of(model),
        transposed=any(isinstance(layer.get_base_layer(), Conv1D) for _, layer in adapted_layers(model)),
        privacy=privacy,
        made=made,
        license=stated_by(getattr(getattr(model, "config", None), "_name_or_path", "")),
    )
    write_folder(folder, uniform(changes(adapter, total)), adapter.dense, about)


def class_of(model: nn.Module) -> dict[str, str]:
    """By what PEFT's AutoPeftModel loads the base where the folder has no task_type."""
    return {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
