"""The result of a run as a PEFT adapter folder: `PeftModel.from_pretrained(base, folder)` loads it.

What a strategy folded into the base (FedEx-LoRA, FLoRA) and a LoRA-XS core are merged into the exported A and B, so the
folder always belongs to the *original* base. The task head, which PEFT does not know, is `head.safetensors` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn

from fedlora.files import write_atomically
from fedlora.lowrank import Product, compact, product_of, stack
from fedlora.updates import Adapter

LOADING = """# A fine-tuned adapter

Made by fedlora; loads with plain transformers and PEFT:

```python
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

folder, base = {folder!r}, {base!r}
model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
head = load_file(f"{{folder}}/head.safetensors")

batch = tokenizer(["thanks for the quick help!"], truncation=True, max_length={max_tokens}, return_tensors="pt")
hidden = model(**batch).last_hidden_state
mask = batch["attention_mask"].unsqueeze(-1)
pooled = (hidden * mask).sum(1) / mask.sum(1)
logits = pooled @ head["weight"].T + head["bias"]
print({labels!r}[logits.argmax(-1).item()])
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
    encoder: type[nn.Module],
    labels: tuple[str, ...],
    max_tokens: int,
    privacy: str | None = None,
) -> None:
    """Write the adapter folder; `total` is what the run added to the base, matrix by matrix.

    `encoder`: the base model's class, by which PEFT's AutoPeftModel knows what to load. `privacy`: a paragraph on what
    the run has cost the sites' data, for the folder's README.
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
        base_model_name_or_path=base,
        auto_mapping={"base_model_class": encoder.__name__, "parent_library": encoder.__module__},
        inference_mode=True,
    ).save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name, (B_mr, A_rn, _) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A_rn.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B_mr.float().contiguous()
    write_atomically(folder / "adapter_model.safetensors", save(tensors))
    write_atomically(folder / "head.safetensors", save({name: t.contiguous() for name, t in adapter.head.items()}))
    about = {"labels": list(labels), "pooling": "mean", "max_tokens": max_tokens}
    write_atomically(folder / "fedlora.json", json.dumps(about, indent=2).encode())
    text = LOADING.format(folder=str(folder), base=base, labels=list(labels), max_tokens=max_tokens)
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
