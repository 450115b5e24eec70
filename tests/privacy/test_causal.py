"""The engine on a causal language model: one record's bound, exactness, and what a token mean would do."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.refusal import Refusal
from tests.privacy.models import looped_clipped_sum

LENGTHS = torch.tensor([3, 9, 5, 12, 7, 4])
CLIP = 0.1


def language_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=12, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0,
        )  # fmt: skip
        model = GPT2LMHeadModel(config).requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True), model)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).train()


def token_losses(model: nn.Module, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (n, t) and which of them count, for sequences of unequal length."""
    tokens = torch.randint(0, 40, (len(LENGTHS), 12), generator=torch.Generator().manual_seed(1))[indices]
    counts = (torch.arange(11)[None] < LENGTHS[indices, None] - 1).float()
    logits = model(input_ids=tokens).logits[:, :-1]
    losses = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses * counts, counts


def mean_within_each(model: nn.Module):
    def loss_per_example(indices: Tensor) -> Tensor:
        losses, counts = token_losses(model, indices)
        return losses.sum(1) / counts.sum(1)

    return loss_per_example


def engine_of(model: nn.Module) -> PrivateEngine:
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=CLIP, steps=1, expected_batch=6.0)
    return PrivateEngine(model, mechanism, examples=6, source=SeededSource(0))


def test_clipped_sum_equals_a_loop_over_examples():
    model = language_model(torch.float64)
    expected = looped_clipped_sum(model, mean_within_each(model), torch.arange(6), CLIP)
    with engine_of(model) as engine:
        found = engine.clipped_sum(torch.arange(6), mean_within_each(model))
    for parameter, total in expected.items():
        torch.testing.assert_close(found[parameter], total, rtol=1e-11, atol=1e-13)


def test_removing_one_sequence_moves_the_clipped_sum_by_at_most_clip():
    model = language_model()
    with engine_of(model) as engine:
        everyone = engine.clipped_sum(torch.arange(6), mean_within_each(model))
        for gone in range(6):
            rest = torch.tensor([i for i in range(6) if i != gone])
            fewer = engine.clipped_sum(rest, mean_within_each(model))
            moved = torch.cat([(everyone[p] - fewer[p]).flatten() for p in everyone]).norm()
            assert moved <= CLIP * (1 + 1e-5)


def test_a_mean_over_all_tokens_of_the_batch_is_refused():
    """`labels=` in transformers: every sequence's loss is divided by everybody's token count."""
    model = language_model()

    def token_mean(indices: Tensor) -> Tensor:
        losses, counts = token_losses(model, indices)
        return losses.sum(1) / counts.sum()

    with pytest.raises(Refusal, match="depends on another one"), engine_of(model) as engine:
        engine.step(token_mean)
