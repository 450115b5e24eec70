"""What a run says of itself on its card: each unit that was protected, and only what the coordinator measured."""

from __future__ import annotations

import json
import math

import pytest

from fedlora.exports.made import Made
from server.made import protected
from tests.federations import run, tiny_recipe

EXAMPLE = {"epsilon_max": 3.0, "delta": 1e-5, "adjacency": "add-or-remove-one", "insecure_noise": False}
CLIENT = {"epsilon": math.inf, "delta": 1e-6, "adjacency": "add-or-remove-one-client", "trusts": "the coordinator"}


def made_by(folder) -> Made:
    return Made.model_validate(json.loads((folder / "fedlora.json").read_text())["made"])


def test_both_units_stand_side_by_side_and_are_never_added():
    row, site = protected({**EXAMPLE, "client_level": CLIENT}, {})
    assert (row.epsilon, row.delta, row.trusts, row.is_guarantee) == (3.0, 1e-5, None, True)
    assert (site.epsilon, site.delta, site.trusts) == (None, 1e-6, "the coordinator")
    assert row.unit != site.unit


def test_a_first_step_from_the_clients_gradients_is_counted_in():
    first = {"epsilon_max_with_first_step": 4.5, "delta_with_first_step": 2e-5}
    (row,) = protected(EXAMPLE, first)
    assert (row.epsilon, row.delta) == (4.5, 2e-5)


def test_noise_from_a_seed_is_no_guarantee():
    (row,) = protected({**EXAMPLE, "insecure_noise": True}, {})
    assert not row.is_guarantee


@pytest.mark.parametrize("strategy", ["fedit", "fedsa"])
def test_sites_own_figures_are_not_taken_for_the_coordinator_s(tiny_model, messages, tmp_path, strategy):
    """FedSA's rounds are evaluated at the sites, each model on its own examples."""
    summary = run(tiny_recipe(tiny_model, messages, "rounds.count=1", f"strategy.name={strategy}"), tmp_path / "run")
    folder = tmp_path / "run" / ("adapter" if strategy == "fedit" else "adapters/red")
    made = made_by(folder)
    assert (made.name, made.strategy, made.rounds, made.clients) == ("tiny", strategy, 1, "2-4")
    if strategy == "fedit":
        assert made.evaluation is not None
        assert made.evaluation.value("accuracy") == summary["accuracy"]
    else:
        assert made.evaluation is None
    assert made.source is None
