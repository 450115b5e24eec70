"""A whole federation that fits in a test: a tiny BERT in a folder, a CSV of messages, four clients."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from fedlora.config import Recipe, override
from fedlora.settings import parse
from server.record.lines import read_records
from server.record.records import Event
from simulations.local_grid import Faults
from simulations.run import prepare, simulate

GOOD, BAD, PLAIN = ("great", "thanks", "love"), ("late", "lost", "rude"), ("flight", "the", "my", "bag", "crew", "seat")
CLIENTS = ("blue", "green", "red", "white")
NODES = {name: 1000 + index for index, name in enumerate(CLIENTS)}

PRIVATE = (
    "privacy.epsilon=8", "privacy.delta=1e-3", "privacy.clip=1.0", "train.optimizer=sgd",
    "train.lr=0.5", "train.batch_size=4",
)  # fmt: skip


def save_tiny_model(folder: Path, *, seed: int = 0, hidden: int = 16) -> str:
    """A two-layer BERT of width `hidden` with random weights and a word-level vocabulary; returns the folder."""
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(
            BertConfig(
                vocab_size=len(words), hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
                intermediate_size=24, max_position_embeddings=32, hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )  # fmt: skip
    model.save_pretrained(folder)
    return str(folder)


def save_messages(path: Path, *, per_client: int = 40) -> str:
    """Distinct messages whose class is told by one word; returns the file."""
    draw = random.Random(0)
    rows: set[tuple[str, str, str]] = set()
    for client in CLIENTS:
        while sum(row[2] == client for row in rows) < per_client:
            label = draw.choice(("good", "bad"))
            words = [draw.choice(PLAIN) for _ in range(draw.randint(2, 6))]
            words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if label == "good" else BAD))
            rows.add((" ".join([*words, *draw.choices(PLAIN, k=2)]), label, client))
    lines = [f"{text},{label},{client}" for text, label, client in sorted(rows)]
    path.write_text("text,label,client\n" + "\n".join(lines) + "\n")
    return str(path)


def tiny_recipe(model: str, source: str, *overrides: str) -> Recipe:
    """Three quick rounds of FedSVD on four clients."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"id": model, "max_tokens": 16},
        "adapter": {"r": 2, "alpha": 4},
        "data": {"source": source, "held_out": 20, "test_fraction": 0.2},
        "strategy": {"name": "fedsvd"},
        "train": {"optimizer": "sgd", "lr": 0.5, "batch_size": 8, "steps": 3},
        "rounds": {"count": 3, "grace_s": 0.2, "deadline_s": 20.0, "wait_s": 0.2},
    }
    return parse(Recipe, override(values, overrides))


def run(
    recipe: Recipe,
    out: Path,
    *,
    faults: Faults | None = None,
    watch: Callable[[Event], None] = lambda event: None,
    resume: bool = False,
) -> dict[str, Any]:
    """Simulate and return the summary."""
    return simulate(prepare(recipe), out, watch=watch, faults=faults, resume=resume)


def named(strategy: str) -> tuple[str, ...]:
    """The settings of a strategy with the adapter that it needs."""
    return f"strategy.name={strategy}", *(("adapter.kind=lora_xs",) if strategy == "fedsb" else ())


def metrics_of_two_rounds(recipe: Recipe, folder: Path) -> set[str]:
    """The figures that the run's last round has, after two rounds that left a loss that is one."""
    summary = simulate(prepare(recipe), folder, watch=lambda event: None)
    records = list(read_records(folder))
    assert [record.round for record in records] == [1, 2]
    assert 0 < summary["loss"] < 20
    return set(records[-1].evaluation.metrics)
