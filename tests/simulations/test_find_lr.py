"""`fedlora find-lr`: it tells a rate that learns from one that is too small and one that diverges, and looks at no more
than it says."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.config import load
from fedlora.plain_yaml import yaml_text
from fedlora.settings import SettingsError
from fedlora.tasks.guessing import Guessing
from simulations.commands import find_lr as find_lr_command
from simulations.commands.find_lr import small
from simulations.find_lr import Tried, best, rates_around, rates_of, why
from simulations.run import prepare
from tests.federations import tiny_recipe
from tests.token_examples import token_ids

GUESSING = Guessing(majority=0.5, examples=400, classes=2)


def tried(rate: float, *losses: float, accuracy: float = 0.9) -> Tried:
    return Tried(rate, GUESSING, losses, accuracy)


@pytest.fixture
def file(tiny_model, messages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml_text(tiny_recipe(tiny_model, messages, "train.steps=10").model_dump(mode="json")))
    return path


def find(*words: object):
    return CliRunner().invoke(app, ["find-lr", *map(str, words)], env={"COLUMNS": "80"})


def test_the_rate_that_learns_is_taken_from_too_small_and_diverging_ones(file, tmp_path):
    result = find(file, "--rates", "1e-5,0.5,1e7", "--json")
    found = json.loads(result.stdout)
    assert found["lr"] == 0.5
    assert found["tried"][2]["verdict"] == "diverged"
    assert found["tried"][0]["losses"][-1] > found["tried"][1]["losses"][-1]
    assert "1e+07 diverged" in found["why"]
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"], "nothing is kept"


def test_the_table_fits_and_the_line_is_one_that_a_recipe_takes(file):
    result = find(file, "--rates", "0.05,0.5", "--rounds", "1", "--set", "train.head_lr=0.1")
    table, _, written = result.stdout.partition("In the recipe:")
    assert max(map(len, table.partition("train.lr=")[0].splitlines())) <= 80
    (file.parent / "line.yaml").write_text(written)
    line = load(file.parent / "line.yaml").train
    assert (line.lr, line.head_lr) in {(0.05, 0.01), (0.5, 0.1)}, "the head's rate moves with it"


def test_it_is_bounded_and_leaves_the_shared_test_set_alone(tiny_model, messages):
    whole = prepare(tiny_recipe(tiny_model, messages, "train.steps=50", "data.partition=iid", "data.clients=10"))
    few = small(whole, rounds=2, examples=5)
    assert (few.recipe.rounds.count, few.recipe.train.steps, few.recipe.rounds.asked(10)) == (2, 10, 4)
    assert {len(client.train) for client in few.data.clients.values()} == {5}
    apart = [row for client in whole.data.clients.values() for row in token_ids(client.test)]
    assert len(few.data.held_out) == len(apart)
    assert sum(len(client.test) for client in few.data.clients.values()) == len(apart)
    assert all(torch.equal(a, b) for a, b in zip(token_ids(few.data.held_out), apart, strict=True))


def test_of_a_large_source_few_examples_are_tested_on(tiny_model, messages, monkeypatch):
    monkeypatch.setattr(find_lr_command, "MOST_TESTED", 8)
    whole = prepare(tiny_recipe(tiny_model, messages, "data.test_fraction=0.5"))
    few = small(whole, rounds=2, examples=5)
    assert {name: len(client.test) for name, client in few.data.clients.items()} == dict.fromkeys(whole.data.clients, 2)
    assert len(few.data.held_out) == 8


def test_a_robust_rule_still_has_the_updates_that_it_needs(tiny_model, messages):
    asked = ("data.partition=iid", "data.clients=10", "robust.rule=multi-krum", "robust.attackers=2")
    few = small(prepare(tiny_recipe(tiny_model, messages, *asked)), rounds=2, examples=5).recipe
    assert few.rounds.asked(10) >= few.robust.least_updates > 4


def test_of_rates_that_are_as_good_the_lowest_is_taken():
    found = [tried(0.001, 0.69, 0.60), tried(0.01, 0.50, 0.302), tried(0.03, 0.4, 0.30), tried(0.1, 9.0, 9.0)]
    chosen = best(found)
    assert chosen is found[1]
    assert why(chosen, found) == (
        "train.lr=0.01 is the lowest rate whose loss, 0.302, is as small as any; 0.1 diverged."
    )


def test_an_end_of_the_rates_asks_for_more_and_nothing_learned_says_what_to_look_at():
    rising, falling = [tried(0.1, 0.6, 0.5), tried(0.2, 0.5, 0.3)], [tried(0.1, 0.5, 0.3), tried(0.2, 0.6, 0.5)]
    assert why(best(rising), rising).endswith("It is the largest of them; also try larger rates: --rates 0.2,0.6,2.")
    assert "It is the smallest of them" in why(best(falling), falling)
    lost = [tried(0.1), tried(0.2, 3.0, float("inf"))]
    assert best(lost) is None
    assert why(None, lost).startswith("All of them diverged; try lower rates: --rates 0.001,0.01,")
    still = [tried(0.1, 0.693, 0.694, accuracy=0.5), tried(0.2)]
    assert best(still) is None
    assert "None of them learned" in why(None, still)


@pytest.mark.parametrize(
    "asked", ["privacy.epsilon=3", "privacy.client_level={noise_multiplier: 1.0, delta: 0.1, clip: 1.0, clients: 4}"]
)
def test_a_private_recipe_is_refused_with_the_way_out(file, asked):
    result = find(file, "--set", asked)
    assert isinstance(result.exception, SettingsError)
    assert "fedlora compare" in str(result.exception)
    assert "--set data.source=PUBLIC.csv --sweep train.lr=0.3,1,3" in str(result.exception)


def test_rates_are_read_or_refused():
    assert rates_of("0.1, 0.01,0.1") == (0.01, 0.1)
    assert rates_around(0.1) == (0.01, 0.03, 0.1, 0.3, 1.0)
    for text in ("0.1", "a,b", "0,1", "-1,1", "inf,1", "nan,1"):
        with pytest.raises(SettingsError, match=r"--rates .*for example --rates 0\.001,0\.01"):
            rates_of(text)
