"""The result of a run as a PEFT adapter folder: `PeftModel.from_pretrained(base, folder)` loads it.

What a strategy folded into the base (FedEx-LoRA, FLoRA) and a LoRA-XS core are merged into the exported A and B, so the
folder always belongs to the *original* base. The task head, which PEFT does not know, is `head.safetensors` beside it.

Guarantee: the lines in the folder's README.md compute the served model's logits, of many texts at once and whatever the
base: in the precision that it was held in here and not the checkpoint's own (in float32 to its rounding, in bfloat16 to
that), padded on the right, and of what a tokenizer makes only ids and mask.
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
from fedlora.tasks.sequence_classification import HEAD
from fedlora.updates import DENSE_SEPARATOR, Adapter

LOADING = """# A fine-tuned adapter

Made by fedlora; loads with plain transformers and PEFT:

```python
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

texts = ["thanks for the quick help!", "my bag is lost"]

folder, base = {folder!r}, {base!r}
model = PeftModel.from_pretrained(AutoModel.from_pretrained(base, dtype={dtype}), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
tokenizer.padding_side = "right"
head = load_file(f"{{folder}}/head.safetensors")

batch = tokenizer(texts, padding=True, truncation=True, max_length={max_tokens}, return_tensors="pt")
ids, mask = batch["input_ids"], batch["attention_mask"]
with torch.inference_mode():
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    logits = pooled @ head["weight"].T + head["bias"]
labels = {labels!r}
print([labels[number] for number in logits.argmax(-1).tolist()])
```
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
    labels: tuple[str, ...],
    max_tokens: int,
    privacy: str | None = None,
) -> None:
    """Write the adapter folder; `total` is what the run added to the base, matrix by matrix.

    `model`: the adapted base model, by whose class PEFT's AutoPeftModel knows what to load. `privacy`: a paragraph on
    what the run has cost the sites' data, for the folder's README.
    """
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
        auto_mapping={"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, (B_mr, A_rn, _) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A_rn.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B_mr.float().contiguous()
    write_atomically(folder / "adapter_model.safetensors", save(tensors))
    head = {
        name.removeprefix(f"{HEAD}{DENSE_SEPARATOR}"): tensor.contiguous() for name, tensor in adapter.dense.items()
    }
    write_atomically(folder / "head.safetensors", save(head))
    about = {"labels": list(labels), "pooling": "mean", "max_tokens": max_tokens}
    write_atomically(folder / "fedlora.json", json.dumps(about, indent=2).encode())
    dtype = next(adapted_layers(model))[1].get_base_layer().weight.dtype
    text = LOADING.format(folder=str(folder), base=base, dtype=dtype, labels=list(labels), max_tokens=max_tokens)
    text += PRIVACY.format(note=privacy) if privacy else ""
    write_atomically(folder / "README.md", text.encode())


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
