"""A text beside full ones and beside a shorter one: the same bits, because no attention mask is ever left out."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel

from fedlora.privacy.masks import every_mask_made
from tests.privacy.architectures import save
from tests.privacy.shipped import shipped
from tests.token_examples import token_ids


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=[pytest.mark.slow, pytest.mark.long]), "float32"])
def test_padding_in_the_batch_changes_no_gradient_of_the_packaged_recipe(dtype):
    """S(a, b) + S(c, d) = S(a, c) + S(b, d), every batch of two and of one shape; only (a, b) has no padding."""
    subject = shipped("private-fedit", f"model.dtype={dtype}", "model.max_tokens=24", examples=100)
    lengths = [len(row) for row in token_ids(subject.examples)]
    a, b = [index for index, length in enumerate(lengths) if length == 24][:2]
    c, d = [index for index, length in enumerate(lengths) if 16 < length < 24][:2]
    with subject.steps() as (engine, loss):
        ab, cd, ac, bd = (engine.clipped_sum(torch.tensor(pair), loss) for pair in ((a, b), (c, d), (a, c), (b, d)))
    largest = max(float((ab[p] + cd[p] - ac[p] - bd[p]).abs().max()) for p in ab)
    assert largest < 1e-7, "of C = 1: the rounding of a sum of two in float32"


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_leaves_masks_out_and_a_private_step_does_not(name, attention, tmp_path, monkeypatch):
    """What the mend is against is still there: if this fails at its first lines, transformers has changed."""
    model = AutoModel.from_pretrained(save(name, tmp_path), attn_implementation=attention).eval()
    seen = []
    for module in model.modules():
        if type(module).__name__.endswith(("SelfAttention", "LlamaAttention")):
            module.register_forward_pre_hook(
                lambda _, args, kwargs: seen.append(kwargs.get("attention_mask", args[1] if args[1:] else None)),
                with_kwargs=True,
            )
    full = {"input_ids": torch.full((2, 6), 7), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    model(**full)
    left_out = [mask is None for mask in seen]
    assert left_out
    assert all(left_out) == ((name, attention) != ("llama", "eager"))
    seen.clear()
    with every_mask_made():
        model(**full)
    assert seen
    assert all(mask is not None and mask.shape[-2:] == (6, 6) for mask in seen)
