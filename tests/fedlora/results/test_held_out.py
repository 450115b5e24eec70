"""On the rows that a run kept apart, `fedlora eval` says what the run's summary says, and scikit-learn what it says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import classification_report

from fedlora.config import load
from simulations.run import prepare, simulate
from tests.fedlora.results.held_out import save_held_out
from tests.fedlora.results.runs import lines_of, typed


def require_equal(run: Path, file: Path) -> None:
    """The run's accuracy and loss, and every number of scikit-learn's report, to 1e-12, on what `predict` writes."""
    summary = json.loads((run / "summary.json").read_text())
    found = json.loads(typed("eval", run, file, "--json").stdout)
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(summary["accuracy"], abs=1e-12)
    assert found["metrics"]["loss"]["value"] == pytest.approx(summary["loss"], abs=1e-5)
    truth = [row["label"] for row in csv.DictReader(file.read_text().splitlines())]
    said = [line["label"] for line in lines_of(run, file)]
    theirs = classification_report(truth, said, output_dict=True, zero_division=0)
    of_each = {**found["classes"], "macro avg": found["macro"], "weighted avg": found["weighted"]}
    for name, one in of_each.items():
        expected = [theirs[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert [one[key] for key in ("precision", "recall", "f1", "rows")] == pytest.approx(expected, abs=1e-12)


def test_a_small_run_s_figures_are_found_again(texts, tmp_path):
    require_equal(texts, save_held_out(load(texts / "config.yaml"), tmp_path / "held-out.csv"))


@pytest.mark.slow
def test_the_demo_s_figures_are_found_again(tmp_path):
    recipe = load("six-airlines", ["rounds.count=1", "train.steps=2", "data.held_out=200", "data.test_fraction=0.02"])
    simulate(prepare(recipe), tmp_path / "run", watch=lambda event: None)
    require_equal(tmp_path / "run", save_held_out(recipe, tmp_path / "held-out.csv"))
