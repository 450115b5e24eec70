"""A name is looked up without a line of anybody's code being run, and an unknown one is answered with the nearest."""

from __future__ import annotations

import pytest

from fedlora.config import Recipe
from fedlora.plugins.names import Kind, is_plug_in, registered, target_of
from fedlora.settings import SettingsError, parse
from fedlora.tasks.base import TaskKind
from fedlora.tasks.registry import NEEDED
from simulations.commands.recipes import settings_of
from strategies.registry import build
from tests.plugins.places import installed

EXPLODES = "raise RuntimeError('imported')\n"


@pytest.fixture
def explosive(tmp_path, monkeypatch):
    """A package that is there and registered, and that must not be imported."""
    (tmp_path / "explosive.py").write_text(EXPLODES)
    with installed(monkeypatch, tmp_path, {kind.group: {"boom": "explosive:Thing"} for kind in Kind}):
        yield


@pytest.mark.parametrize("name", ["boom", "explosive:Thing"])
def test_a_recipe_that_names_a_plug_in_is_read_without_importing_it(explosive, name):
    values = {"model": {"task": name}, "train": {"optimizer": name}, "strategy": {"name": name}}
    recipe = parse(Recipe, values | {"data": {"source": name}})
    assert (recipe.model.task, recipe.train.optimizer) == (name, name)
    assert all(target_of(kind, name) == "explosive:Thing" for kind in Kind)


def test_nobody_can_take_the_name_of_what_is_fedloras_own(tmp_path, monkeypatch):
    with installed(monkeypatch, tmp_path, {"fedlora.optimizers": {"adamw": "explosive:Thing"}}):
        assert not is_plug_in(Kind.OPTIMIZER, "adamw", ["adamw", "sgd"])


def test_a_name_that_two_packages_took_is_nobodys(tmp_path, monkeypatch):
    one, two = {"fedlora.strategies": {"mine": "a:A"}}, {"fedlora.strategies": {"mine": "b:B"}}
    with (
        installed(monkeypatch, tmp_path / "one", one),
        installed(monkeypatch, tmp_path / "two", two),
        pytest.raises(SettingsError, match="2 installed plug-ins; write the one that is meant: a:A or b:B"),
    ):
        target_of(Kind.STRATEGY, "mine")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"optimizer": "calm"}}, "train.optimizer: 'calm' is no optimiser; did you mean 'calm-adam'?"),
        ({"train": {"optimizer": "adamv"}}, "train.optimizer: 'adamv' is no optimiser; did you mean 'adamw'?"),
        ({"model": {"task": "focal-clasification"}}, "model.task: .* did you mean 'focal-classification'?"),
        ({"model": {"task": "my.module.Task"}}, "One of your own is written module:Thing"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_of_all(tmp_path, monkeypatch, values, said):
    groups = {
        "fedlora.optimizers": {"calm-adam": "fedlora_calm:calm_adam"},
        "fedlora.tasks": {"focal-classification": "fedlora_focal:FocalClassification"},
    }
    with installed(monkeypatch, tmp_path, groups), pytest.raises(SettingsError, match=said):
        parse(Recipe, values)


def test_an_unknown_strategy_is_answered_with_the_nearest_of_all(tmp_path, monkeypatch):
    with (
        installed(monkeypatch, tmp_path, {"fedlora.strategies": {"steady": "fedlora_steady:Steady"}}),
        pytest.raises(SettingsError, match=r"unknown strategy.name 'stedy'; did you mean 'steady'\?"),
    ):
        build("stedy", {})


def test_what_a_task_of_others_must_have_is_what_the_protocol_lists():
    """`taken` by name, so that a plug-in without one of them is refused when it is named and not in the third round."""
    assert set(NEEDED) == {name for name in (*vars(TaskKind), *TaskKind.__annotations__) if not name.startswith("_")}


def test_registrations_are_those_of_this_python():
    assert all("boom" not in registered(kind) for kind in Kind)


def test_the_manual_of_a_setting_names_what_is_installed_for_it(tmp_path, monkeypatch):
    with installed(monkeypatch, tmp_path, {"fedlora.optimizers": {"calm-adam": "fedlora_calm:calm_adam"}}):
        meanings = {key: meaning for key, _, meaning in settings_of(Recipe)}
    assert meanings["train.optimizer"].endswith("Installed here: calm-adam.")
    assert "Installed here" not in meanings["train.lr"]
