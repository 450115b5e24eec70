"""Shared by all tests: single-threaded torch, and tiny models that need no download."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from fedlora.config import Recipe
from tests.federations import save_messages, save_tiny_model, tiny_recipe

torch.set_num_threads(1)
# No test fails because a machine is busy, or because a search found something new in the middle of another's change:
# the same examples every time. HYPOTHESIS_PROFILE=search looks elsewhere on every run; `make fuzz` does so.
settings.register_profile("fedlora", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fedlora"))


class TinyClassifier(nn.Module):
    """The form of fedlora's models, with random weights: an encoder and a head on its mean-pooled output."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden_bth = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask_bt1 = attention_mask.unsqueeze(-1).to(hidden_bth.dtype)
        return self.head((hidden_bth * mask_bt1).sum(1) / mask_bt1.sum(1))


@pytest.fixture
def tiny_bert() -> TinyClassifier:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return TinyClassifier(BertModel(config), 16)


@pytest.fixture
def tiny_gpt2() -> TinyClassifier:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0)  # fmt: skip
    return TinyClassifier(GPT2Model(config), 16)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def messages(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_messages(tmp_path_factory.mktemp("data") / "messages.csv")


@pytest.fixture
def recipe(tiny_model: str, messages: str) -> Callable[..., Recipe]:
    """`recipe("strategy.name=ffa", ...)`: the tiny federation with these overrides."""
    return lambda *overrides: tiny_recipe(tiny_model, messages, *overrides)
