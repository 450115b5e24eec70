"""What fine-tuning on images must beat, on a recipe's own split: the largest class, raw pixels, frozen features.

    python -m tests.bench.bench_image_references fashion

Logistic regression sees the training images of all clients together: their pixels as they are (0 to 1), or the two
halves that `fedlora.tasks.image_classification` gives to its head. One with each client's own alone stands below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from fedlora.config import load
from fedlora.data.examples import Examples
from fedlora.data.images.decoding import image_of
from fedlora.data.rows import read_rows
from fedlora.models.base import load_base
from fedlora.tasks.image_classification import logits_of
from simulations.data.partition import assign, columns_of, federation
from tests.bench.bench_references import majority

Features = NDArray[np.float32]


def main(name: str) -> None:
    recipe = load(name)
    rows = read_rows(recipe.data.source, columns_of(recipe.data, recipe.model.task))
    held_out, clients = assign(rows, recipe.data, seed=recipe.seed)
    parts = federation(recipe.data, model=recipe.model, seed=recipe.seed)
    train = [index for indices, _ in clients.values() for index in indices]
    raw = np.stack(
        [
            np.asarray(image_of(rows[i].image("image")), np.float32).ravel() / np.float32(255)
            for i in [*train, *held_out]
        ]
    )
    model = load_base(recipe.model, parts.labels).model
    model.head = nn.Identity()
    frozen = np.concatenate([features_of(model, part.train) for part in parts.clients.values()])
    frozen = np.concatenate([frozen, features_of(model, parts.held_out)])
    labels = [str(rows[i].label) for i in [*train, *held_out]]
    guess = majority([rows[i] for i in train], [rows[i] for i in held_out])
    print(f"{len(train)} training images, {len(held_out)} to test on; the largest class {guess:.3f}")
    print(f"{'logistic regression':>20}  {'pixels':>8}  {'features':>8}")
    print(f"{'all together':>20}  {score(raw, labels, range(len(train))):>8.3f}  "
          f"{score(frozen, labels, range(len(train))):>8.3f}")  # fmt: skip
    at = 0
    for client, (indices, _) in clients.items():
        own = range(at, at + len(indices))
        at += len(indices)
        a, b = score(raw, labels, own, trained=len(train)), score(frozen, labels, own, trained=len(train))
        print(f"{client:>20}  {a:>8.3f}  {b:>8.3f}")


def features_of(model: nn.Module, examples: Examples) -> Features:
    """(n, 2d), in the order of the examples."""
    starts = range(0, len(examples), 64)
    with torch.inference_mode():
        batches = (examples.batch(range(start, min(start + 64, len(examples)))) for start in starts)
        return np.concatenate([logits_of(model, batch).numpy() for batch in batches])


def score(features: Features, labels: Sequence[str], own: range, *, trained: int | None = None) -> float:
    """On what comes after the training images, of one that has seen `own`."""
    end = len(own) if trained is None else trained
    fitted = LogisticRegression(max_iter=2000).fit(features[own.start : own.stop], labels[own.start : own.stop])
    return float(fitted.score(features[end:], labels[end:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
