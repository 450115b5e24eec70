"""Shared by all tests: single-threaded torch, and tiny models that need no download."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from fedlora.adapters.dense import mark_dense
from fedlora.config import Recipe
from fedlora.tasks.registry import task_named
from tests.federations import save_messages, save_tiny_model, tiny_recipe

torch.set_num_threads(1)
# No test fails because a machine is busy, or because a search found something new in the middle of another's change:
# the same few examples every time. HYPOTHESIS_PROFILE=search looks elsewhere on every run, and longer; `make fuzz` does
# so.
settings.register_profile("fedlora", deadline=None, derandomize=True, database=None, max_examples=30)
settings.register_profile("search", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fedlora"))


gc.disable()


def pytest_collection_finish() -> None:
    """What was imported stays until the end: nobody looks again and again whether it could go, which took 2 s while
    everything is imported and 0.4 s whenever all of it was looked at later."""
    gc.freeze()
    gc.enable()


def classifier_of(model: nn.Module) -> nn.Module:
    """As `load_base` makes it of a loaded model: with the task's own linear layer, for three classes."""
    task = task_named("sequence-classification")
    task.prepare(model, longest=16, outputs=3)
    mark_dense(model, task.dense)
    return model


@pytest.fixture
def tiny_bert() -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return classifier_of(BertModel(config, add_pooling_layer=False))


@pytest.fixture
def tiny_gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, resid_pdrop=0.0, embd_pdrop=0.0,
                        attn_pdrop=0.0)  # fmt: skip
    return classifier_of(GPT2Model(config))


@pytest.fixture(scope="session", autouse=True)
def _no_picture_of_every_run() -> Iterator[None]:
    """A picture takes a third of the time of a run on the tiny model; the tests of pictures draw them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("simulations.run.draw_curves", lambda folder, metric, *, title: None)
        yield


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
