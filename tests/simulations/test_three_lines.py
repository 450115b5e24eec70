"""A recipe that says where the data are and what its columns are called learns, every other setting as it comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlora.config import load
from simulations.run import prepare, simulate
from strategies.compatibility import case_of, refusals
from tests.federations import save_messages
from tests.own_tables import long_texts, twelve_classes


def recipe_of(folder: Path, source: Path, text: str, label: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(f"data:\n  source: {source}\n  text: {text}\n  label: {label}\n")
    return path


def outcome(path: Path, folder: Path, *overrides: str) -> tuple[str, float]:
    """What a run says of itself, and its loss."""
    summary = simulate(prepare(load(path, overrides)), folder / "run", watch=lambda event: None)
    return summary["verdict"][0], summary["loss"]


def test_three_lines_learn(tiny_model, tmp_path):
    """On a model small enough to be quick; that it is not the demo's is a line of its own."""
    source = Path(save_messages(tmp_path / "messages.csv", per_client=150))
    path = recipe_of(tmp_path, source, "text", "label")
    said, _ = outcome(path, tmp_path, f"model.id={tiny_model}", "model.max_tokens=16", "rounds.evaluate_every=10")
    assert "is better than guessing" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", ["airlines", *(pytest.param(name, marks=pytest.mark.long) for name in ("twelve classes", "long texts"))]
)
def test_three_lines_learn_on_the_demos_model(tmp_path, name):
    """Three rounds of one client each are enough to tell; SGD at 0.1, the default before, guesses on airlines."""
    source, text, label = {
        "airlines": lambda: (Path("airlines"), "text", "label"),
        "twelve classes": lambda: (twelve_classes(tmp_path / "table.csv"), "ticket", "topic"),
        "long texts": lambda: (long_texts(tmp_path / "table.csv"), "report", "outcome"),
    }[name]()
    path = recipe_of(tmp_path, source, text, label)
    few = (
        "rounds.count=3", "rounds.evaluate_every=3", "rounds.fraction=0.16", "model.max_tokens=32", "data.held_out=200",
        "data.test_fraction=0.01",
    )  # fmt: skip
    said, _ = outcome(path, tmp_path, *few)
    assert "is better than guessing" in said


def test_the_defaults_have_nothing_in_them_that_does_nothing(tmp_path):
    assert list(refusals(case_of(load(recipe_of(tmp_path, Path("x.csv"), "a", "b"))))) == []
