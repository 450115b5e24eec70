"""A packaged recipe's name does wherever a recipe file is asked for."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.config import load
from fedlora.packaged import packaged, recipe_file, sentence_of
from fedlora.settings import SettingsError


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_recipe_loads_by_name_and_says_what_it_is(name):
    assert load(name).name == name
    assert len(sentence_of(packaged()[name])) > 20


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedsvd").write_text("name: mine\n")
    assert load("fedsvd").name == "mine"


def test_a_name_that_is_nothing_is_refused_with_the_nearest():
    with pytest.raises(SettingsError, match=r"cannot read the recipe fedsdv:.*Did you mean fedsvd"):
        recipe_file("fedsdv")


def test_a_run_s_folder_leads_to_the_recipe_that_it_ran(tmp_path):
    (tmp_path / "config.yaml").write_text("name: mine\n")
    with pytest.raises(SettingsError, match=r"is a run's folder; its recipe is .*/config\.yaml\."):
        recipe_file(tmp_path)


def test_the_command_lists_all():
    said = CliRunner().invoke(app, ["recipes"]).output
    assert all(name in said for name in packaged())


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("train.learning_rate=1", "train.lr"),
        ("train.epochs=1", "train.local_epochs"),
        ("adapter.rank=4", "adapter.r"),
        ("adapter.lora_alpha=4", "adapter.alpha"),
        ("adapter.target_modules=x", "adapter.targets"),
        ("model.max_length=9", "model.max_tokens"),
        ("learning_rate=1", "train.lr"),
        ("num_rounds=3", "rounds.count"),
        ("privacy.max_grad_norm=1", "privacy.clip"),
        ("max_grad_norm=1", "train.max_grad_norm"),
    ],
)
def test_the_words_of_other_libraries_lead_to_ours(setting, meant):
    with pytest.raises(SettingsError, match=rf"did you mean ([\w.]+ or )*{meant}( or|\?)"):
        load("fedsvd", [setting])


def test_fedavg_is_fedit():
    assert load("fedsvd", ["strategy.name=fedavg"]).strategy.name == "fedit"


def test_a_typed_setting_is_not_said_to_stand_in_a_line_of_the_file():
    with pytest.raises(SettingsError, match=r"train\.lr must be greater than 0, got -1\.$"):
        load("six-airlines", ["train.lr=-1"])
