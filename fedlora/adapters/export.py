"""The result of a run as a PEFT adapter folder: `PeftModel.from_pretrained(base, folder)` loads it.

What a strategy folded into the base (FedEx-LoRA, FLoRA) and a LoRA-XS core are merged into the exported A and B, so the
folder always belongs to the *original* base. A module that trains whole beside the adapters, as a task's head, which
PEFT does not know, is in a file of its own name beside them: `head.safetensors`.

Guarantee: the lines in the folder's README.md, which are the task's own (`TaskKind.usage`), compute the served model's
logits, of many texts at once and whatever the base: in the precision that it was held in here and not the checkpoint's
own (in float32 to its rounding, in bfloat16 to that).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.adapters.inject import adapted_layers
from fedlora.files import write_atomically
from fedlora.lowrank import Product, compact, product_of, stack
from fedlora.tasks.registry import task_named
from fedlora.updates import DENSE_SEPARATOR, Adapter

LOADING = """# A fine-tuned adapter

Made by fedlora; loads with plain transformers and PEFT:

```python
{lines}```
"""

PRIVACY = """
## Privacy

{note}
"""


def export_adapter(
    folder: Path,
    adapter: Adapter,
    *,
    total: Mapping[str, Product],
    base: str,
    model: nn.Module,
    task: str,
    labels: tuple[str, ...],
    max_tokens: int,
    privacy: str | None = None,
) -> None:
    """Write the adapter folder; `total` is what the run added to the base, matrix by matrix.

    `model`: the adapted base model, by whose class PEFT's AutoPeftModel knows what to load. `task`: a name in
    `fedlora.tasks.registry`. `privacy`: a paragraph on what the run has cost the sites' data, for the folder's README.
    """
    usage = task_named(task).usage
    folder.mkdir(parents=True, exist_ok=True)
    factors = {name: exported_factors(adapter, total, name) for name in sorted(adapter.layers)}
    ranks = {name: A_rn.shape[0] for name, (_, A_rn, _) in factors.items()}
    alphas = {name: scale * ranks[name] for name, (_, _, scale) in factors.items()}
    common_rank, common_alpha = max(ranks.values()), max(alphas.values())
    LoraConfig(
        r=common_rank,
        lora_alpha=common_alpha,
        target_modules=sorted(factors),
        rank_pattern={name: rank for name, rank in ranks.items() if rank != common_rank},
        alpha_pattern={name: alpha for name, alpha in alphas.items() if alpha != common_alpha},
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for _, layer in adapted_layers(model)),
        base_model_name_or_path=base,
        task_type=usage.peft_task,
        auto_mapping=None if usage.peft_task else class_of(model),
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, (B_mr, A_rn, _) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A_rn.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B_mr.float().contiguous()
    write_atomically(folder / "adapter_model.safetensors", save(tensors))
    for path, parameters in dense_modules_of(adapter).items():
        write_atomically(folder / f"{path}.safetensors", save(parameters))
    about = {"task": task, "labels": list(labels), "max_tokens": max_tokens, **usage.facts}
    write_atomically(folder / "fedlora.json", json.dumps(about, indent=2).encode())
    dtype = next(adapted_layers(model))[1].get_base_layer().weight.dtype
    lines = usage.lines_for(folder=str(folder), base=base, dtype=dtype, labels=labels, max_tokens=max_tokens)
    text = LOADING.format(lines=lines)
    text += PRIVACY.format(note=privacy) if privacy else ""
    write_atomically(folder / "README.md", text.encode())


def class_of(model: nn.Module) -> dict[str, str]:
    """By what PEFT's AutoPeftModel loads the base where the folder has no task_type."""
    return {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}


def dense_modules_of(adapter: Adapter) -> dict[str, dict[str, Tensor]]:
    """Of every module that trained whole, by its path, the parameters by their names in it."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.dense.items():
        path, _, parameter = name.partition(DENSE_SEPARATOR)
        found.setdefault(path, {})[parameter] = tensor.contiguous()
    return found


def exported_factors(adapter: Adapter, total: Mapping[str, Product], name: str) -> tuple[Tensor, Tensor, float]:
    """(B, A, s) with s · B A = what the run added to this matrix: the adapter itself where that is all there is."""
    layer = adapter.layers[name]
    if name not in total and layer.R_rr is None:
        return layer.B_mr, layer.A_rn, layer.scale
    whole = product_of(layer) if name not in total else compact(stack([total[name], product_of(layer)]))
    if whole.rank == 0:  # PEFT has no rank 0: one silent direction
        m, n = layer.shape
        return whole.U_mp.new_zeros(m, 1), whole.V_pn.new_zeros(1, n), 1.0
    return whole.U_mp, whole.V_pn, 1.0
