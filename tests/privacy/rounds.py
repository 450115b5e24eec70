"""A tiny base model on disk, a site with a few examples, and the first state: enough for real rounds at a site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

from client.site import Parts, Site
from fedlora.adapters import initial_adapter
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.data.examples import Examples
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.privacy.policy import SIMULATION, Policy
from fedlora.protocol.task import Task
from fedlora.updates import Adapter
from fedlora.wire.state import encode_state
from tests.privacy.tasks import task
from tests.token_examples import token_examples

LABELS = ("negative", "neutral", "positive")
ADAPTER = AdapterSettings(r=2, alpha=2)


def save_tiny_model(folder: Path) -> ModelSettings:
    """A two-layer BERT with random weights, as `model.id` takes it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=16, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)
    return ModelSettings(id=str(folder), max_tokens=16)


@dataclass(frozen=True)
class Coordinator:
    """What a coordinator knows: it sends the same first state in every round."""

    model: ModelSettings
    home: LoadedModel
    adapter: Adapter

    def ask(self, number: int, **changes: Any) -> tuple[Task, bytes]:
        asked = task(
            round=number,
            model=self.model,
            adapter=ADAPTER,
            labels=LABELS,
            fingerprint=self.home.base.fingerprint,
            **{"train": {"batch_size": 8, "steps": 2}, **changes},
        )
        state = encode_state(
            self.adapter, {}, run=asked.run, round_number=number, strategy=asked.strategy, codec="fp32"
        )
        return asked, state


def coordinator(folder: Path) -> Coordinator:
    model = save_tiny_model(folder)
    home = loaded_model(model, ADAPTER, LABELS)
    return Coordinator(model, home, initial_adapter(home.model, ADAPTER, seed=0))


def examples(count: int, *, seed: int = 0) -> Examples:
    stream = torch.Generator().manual_seed(seed)
    rows: Sequence[torch.Tensor] = [torch.randint(1, 50, (6,), generator=stream) for _ in range(count)]
    return token_examples(rows, torch.randint(0, 3, (count,), generator=stream), 0)


def site(folder: Path, *, name: str = "a", policy: Policy = SIMULATION, count: int = 60) -> Site:
    """One that allows whatever base a test made, and besides what the policy says."""
    policy = policy if policy.base_models else policy.model_copy(update={"base_models": "any"})
    return Site(name, Parts(examples(count), examples(10, seed=1)), folder, policy=policy)


def first_task(model: str, labels: tuple[str, ...], *, kind: str = "sequence-classification") -> tuple[Task, bytes]:
    """The first private task of a run on a model in a folder, and the state that goes with it."""
    on = ModelSettings(id=model, task=kind, max_tokens=16)
    home = loaded_model(on, ADAPTER, labels)
    asked = task(
        model=on, adapter=ADAPTER, labels=labels, fingerprint=home.base.fingerprint, train={"batch_size": 8, "steps": 2}
    )
    state = encode_state(
        initial_adapter(home.model, ADAPTER, seed=0), {}, run=asked.run, round_number=1, strategy="ffa", codec="fp32"
    )
    return asked, state
