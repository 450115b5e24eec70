"""A federation of tagged words that fits in a test: a tiny BERT, and four clients with a file of CoNLL's form each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from fedlora.config import Recipe, override
from fedlora.settings import parse
from tests.federations import CLIENTS, PLAIN

TOWNS, LABELS = ("great", "late", "lost"), ("B-TOWN", "I-TOWN", "O")
"""Words that the tiny BERT knows, and what is said of them here."""


def sentences(client: str, *, count: int = 24) -> list[tuple[list[str], list[str]]]:
    """Distinct sentences with one town of one or two words in each."""
    draw, found = random.Random(client), dict[tuple[str, ...], list[str]]()
    while len(found) < count:
        before, after = (draw.choices(PLAIN, k=draw.randint(1, 3)) for _ in range(2))
        town = draw.sample(TOWNS, draw.randint(1, 2))
        tags = ["B-TOWN", "I-TOWN"][: len(town)]
        found[(*before, *town, *after)] = ["O"] * len(before) + tags + ["O"] * len(after)
    return [(list(words), tags) for words, tags in found.items()]


def conll(rows: list[tuple[list[str], list[str]]]) -> str:
    return "\n".join("".join(f"{word} {tag}\n" for word, tag in zip(*row, strict=True)) for row in rows)


def save_tagged(folder: Path, *, count: int = 24) -> str:
    """folder/client.conll; returns the folder."""
    folder.mkdir(parents=True)
    for client in CLIENTS:
        (folder / f"{client}.conll").write_text(conll(sentences(client, count=count)))
    return str(folder)


def tagged_recipe(model: str, source: str, *overrides: str) -> Recipe:
    """Two quick rounds on four clients."""
    values: dict[str, Any] = {
        "name": "tags",
        "model": {"id": model, "task": "token-classification", "max_tokens": 16},
        "adapter": {"r": 2, "alpha": 4},
        "data": {"source": source, "held_out": 20, "test_fraction": 0.2},
        "strategy": {"name": "fedit"},
        "train": {"optimizer": "adamw", "lr": 0.02, "batch_size": 8, "steps": 4},
        "rounds": {"count": 2, "grace_s": 0.2, "deadline_s": 20.0, "wait_s": 0.2},
    }
    return parse(Recipe, override(values, overrides))
