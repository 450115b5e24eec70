"""What fine-tuning must beat, on the demo's own test set: the majority class, TF-IDF, and the frozen encoder.

    python -m tests.bench.bench_references

Logistic regression on TF-IDF and on the encoder's mean-pooled features sees the training examples of all six airlines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from fedlora.config import Recipe, load
from fedlora.data.examples import Examples
from fedlora.data.row import Row
from fedlora.data.rows import read_rows
from fedlora.models.base import load_base
from fedlora.tasks.sequence_classification import logits_of
from simulations.data.partition import assign, columns_of, tokenised

TRAINED = 3000
"""Examples that the logistic regressions see; all of them for `all`."""


def main() -> None:
    recipe = load("six-airlines")
    rows = read_rows(recipe.data.source, columns_of(recipe.data, recipe.model.task))
    held_out, clients = assign(rows, recipe.data, seed=recipe.seed)
    train = [index for indices, _ in clients.values() for index in indices]
    order = np.random.default_rng(0).permutation(len(train))
    print(f"{'training examples':>18}  {'majority':>8}  {'TF-IDF':>8}  {'frozen encoder':>14}")
    for chosen in ([train[i] for i in order[:TRAINED]], train):
        features = frozen_features(recipe, [*chosen, *held_out])
        row = (
            majority([rows[i] for i in chosen], [rows[i] for i in held_out]),
            tf_idf([rows[i] for i in chosen], [rows[i] for i in held_out]),
            probe(features, [rows[i].label for i in [*chosen, *held_out]], len(chosen)),
        )
        print(f"{len(chosen):>18}  {row[0]:>8.3f}  {row[1]:>8.3f}  {row[2]:>14.3f}", flush=True)


def majority(train: Sequence[Row], test: Sequence[Row]) -> float:
    label = Counter(row.label for row in train).most_common(1)[0][0]
    return sum(row.label == label for row in test) / len(test)


def tf_idf(train: Sequence[Row], test: Sequence[Row]) -> float:
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=2000))
    model.fit([row["text"] for row in train], [row.label for row in train])
    return float(model.score([row["text"] for row in test], [row.label for row in test]))


def frozen_features(recipe: Recipe, indices: Sequence[int]) -> np.ndarray:
    """Mean-pooled last hidden states of the base model, in the order of `indices`."""
    model = load_base(recipe.model, ("0", "1", "2")).model
    model.head = torch.nn.Identity()
    examples: Examples = everything(recipe).take(indices)
    lengths = examples.lengths
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    features = np.zeros((len(examples), 384), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            batch = examples.batch(order[start : start + 64])
            features[order[start : start + 64]] = logits_of(model, batch).numpy()
    return features


def everything(recipe: Recipe) -> Examples:
    """All examples of the source, in file order."""
    return tokenised(recipe.data.source, columns_of(recipe.data, recipe.model.task), None, recipe.model, None).examples


def probe(features: np.ndarray, labels: Sequence[str], trained: int) -> float:
    model = LogisticRegression(max_iter=2000).fit(features[:trained], labels[:trained])
    return float(model.score(features[trained:], labels[trained:]))


if __name__ == "__main__":
    main()
