"""A stranger's strategy, task, source and optimiser in a whole run, by dotted name; what is not one is refused."""

from __future__ import annotations

import json

import pytest

from client.steps.optimizer import make_optimizer
from fedlora.plugins.gate import open_to
from fedlora.settings import SettingsError
from simulations.comparing.finished import finished
from simulations.comparing.rows import all_rows
from strategies.compatibility import case_of
from strategies.registry import STRATEGIES, build
from tests.federations import run
from tests.plugins.places import FOLDERS, installed

NAMED = {
    "strategy": "strategy.name=fedlora_steady:Steady",
    "task": "model.task=fedlora_focal:FocalClassification",
    "source": "data.source=fedlora_tickets:TICKETS",
    "optimizer": "train.optimizer=fedlora_calm:calm_adam",
}


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    open_to("any")
    with (
        installed(monkeypatch, FOLDERS["strategy"]),
        installed(monkeypatch, FOLDERS["task"]),
        installed(monkeypatch, FOLDERS["source"]),
        installed(monkeypatch, FOLDERS["optimizer"]),
    ):
        yield


def test_a_run_of_strangers_parts_leaves_what_any_run_leaves(recipe, tmp_path):
    summary = run(recipe(*NAMED.values(), "strategy.pace=0.8", "rounds.count=2"), tmp_path / "run")
    assert (summary["strategy"], summary["rounds"]) == ("fedlora_steady:Steady", 2)
    assert set(summary["accuracy_by_client"]) == {"east", "north", "south", "west"}
    (row,) = all_rows([finished(tmp_path / "run")])
    assert (row.metric.name, row.score) == ("accuracy", summary["score"])
    assert (
        json.loads((tmp_path / "run/adapter/fedlora.json").read_text())["task"] == "fedlora_focal:FocalClassification"
    )


@pytest.mark.parametrize("what", NAMED)
def test_each_part_stands_alone_with_the_rest_fedloras_own(recipe, tmp_path, what):
    assert run(recipe(NAMED[what], "rounds.count=1"), tmp_path / "run")["rounds"] == 1


def test_any_optimiser_of_torch_is_one(recipe, tmp_path):
    named = recipe("train.optimizer=torch.optim:RMSprop", "train.momentum=0.5", "rounds.count=1")
    assert run(named, tmp_path / "run")["rounds"] == 1


def test_a_strangers_optimiser_has_the_rates_of_adapter_and_head_and_what_it_takes(recipe, tiny_bert):
    settings = recipe(NAMED["optimizer"], "train.lr=0.1", "train.head_lr=0.2", "train.weight_decay=0.3").train
    built = make_optimizer(tiny_bert, list(tiny_bert.parameters()), settings)
    assert [group["lr"] for group in built.param_groups] == [0.1, 0.2]
    assert {group["weight_decay"] for group in built.param_groups} == {0.3}


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("strategy.name=fedlora_steady:replace", "is replace, which is no strategy: that is a class under"),
        ("strategy.name=fedlora_steady:Stedy", "did you mean fedlora_steady:Steady?"),
        ("model.task=fedlora_focal:Batch", "which is no task: that is what fedlora.tasks.base.TaskKind lists"),
        ("data.source=fedlora_tickets:rows", "which is no source of data: that is a fedlora.data.packaged.Packaged"),
        ("train.optimizer=math:sqrt", "which is no optimiser: that is what makes a"),
        ("train.momentum=0.9", "calm_adam takes no momentum; remove train.momentum"),
    ],
)
def test_what_is_no_such_thing_is_refused_when_the_recipe_is_checked(recipe, named, said):
    asked = [NAMED["optimizer"], named] if named.startswith("train.momentum") else [named]
    with pytest.raises(SettingsError, match=said):
        case_of(recipe(*asked))


def test_a_strangers_strategy_has_settings_with_the_same_errors():
    with pytest.raises(SettingsError, match=r"unknown setting strategy.pase; did you mean strategy.pace\?"):
        build("fedlora_steady:Steady", {"pase": 0.1})
    assert "fedlora_steady:Steady" not in STRATEGIES


def test_a_folder_that_is_called_like_a_source_is_written_as_a_path(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fedlora_tickets:TICKETS").mkdir()
    with pytest.raises(SettingsError, match=r"is both a plug-in and here a file or folder; write \./fedlora_tickets"):
        case_of(recipe(NAMED["source"]))
