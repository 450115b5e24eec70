"""Sweeps, and which of their settings is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlora.settings import SettingsError
from simulations.commands import whole_numbers
from simulations.compare import Run, best_rows, plan, repeated


def finished_run(settings: str, seed: int, accuracy: float) -> Run:
    summary = {
        "accuracy": accuracy, "loss": 1.0, "aggregation_error_max": None, "bytes_up": 0, "bytes_down": 0, "seconds": 1,
    }  # fmt: skip
    return Run("ffa", settings, seed, Path("nowhere"), summary)


def test_the_best_of_a_sweep_is_repeated_with_the_other_seeds(tmp_path):
    swept = [finished_run("train.lr=0.1", 0, 0.8), finished_run("train.lr=0.2", 0, 0.7)]
    again = repeated(swept, ["ffa.yaml"], [1, 2], ["rounds.count=2"], tmp_path)
    assert [(item.settings, item.seed) for item in again] == [("train.lr=0.1", 1), ("train.lr=0.1", 2)]
    assert again == plan(["ffa.yaml"], ["train.lr=0.1"], [1, 2], ["rounds.count=2"], tmp_path)


def test_the_repeated_setting_is_reported_even_if_its_mean_fell_below_another_ones_single_seed():
    runs = [finished_run("train.lr=0.1", seed, accuracy) for seed, accuracy in enumerate((0.8, 0.6, 0.7))]
    (row,) = best_rows([*runs, finished_run("train.lr=0.2", 0, 0.79)])
    assert (row.settings, row.seeds, row.accuracy) == ("train.lr=0.1", 3, pytest.approx(0.7))
    assert row.accuracy_spread == pytest.approx(0.1)


def test_seeds_that_are_no_numbers_are_refused_by_the_option_s_name():
    assert whole_numbers("0,1", option="--seeds") == [0, 1]
    with pytest.raises(SettingsError, match="--repeat '1,x': write whole numbers with commas"):
        whole_numbers("1,x", option="--repeat")
