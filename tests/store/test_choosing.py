"""What a run is one of, in the store: written, migrated, found by it and listed by it."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import create_engine
from typer.testing import CliRunner

from fedlora.settings import SettingsError
from server.commands.runs import app
from server.store.choosing import Choice, chosen
from server.store.migrations.versions.r0005_trials import seed_of
from server.store.opening import open_store
from server.store.reading import find_run, read_runs
from server.store.writing import begin_run, write_round
from server.trial import FILE, Trial, read_trial, trial_in, write_trial
from tests.store.examples import facts, record
from tests.store.older import BEFORE_TASKS, migrated

RATES = {"a": ("fedit", 0.1, 0), "b": ("fedit", 0.2, 0), "c": ("ffa", 0.2, 1)}


@pytest.fixture
def url(tmp_path):
    """Three runs of a comparison, of two methods and rates, and one by itself."""
    url = str(tmp_path / "fedlora.db")
    store = open_store(url)
    with store.writing() as connection:
        for at, (name, (method, rate, seed)) in enumerate(RATES.items()):
            recipe = {"name": method, "seed": seed, "train": {"lr": rate, "steps": 3}}
            trial = Trial("rates", method, {"train.lr": rate, "data.held_out": 800})
            key = begin_run(connection, facts(name * 32, name=name, recipe=recipe, trial=trial), at=1000.0 + at)
            write_round(connection, key, record(3 - at), at=2000.0)
        begin_run(connection, facts("d" * 32, name="d", recipe={"seed": 2**70}), at=3000.0)
    store.close()
    return url


def names(url: str, *where: str, sort: str = "started", **asked: int) -> str:
    store = open_store(url)
    with store.reading() as connection:
        found = "".join(run.name for run in read_runs(connection, choice=chosen(where, sort), **asked))
    store.close()
    return found


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ((), "abcd"), (("group=rates",), "abc"), (("method=ffa",), "c"), (("seed=1",), "c"), (("seed=x",), ""),
        (("train.lr=0.2",), "bc"), (("train.lr=2e-1", "method=fedit"), "b"), (("state=died",), ""),
        (("train.steps=3", "group=rates"), "abc"), (("train.lr=0.3",), ""), (("data.held_out=800",), ""),
    ],
)  # fmt: skip
def test_runs_are_found_by_what_they_are_one_of_and_by_every_setting_of_their_recipe(url, where, found):
    assert names(url, *where) == found


def test_runs_are_sorted_by_any_figure_and_what_is_not_known_comes_last(url):
    assert [names(url, sort=by) for by in ("score", "-score", "-started", "method", "-seed")] == [
        "cbad", "abcd", "dcba", "abcd", "cbad",
    ]  # fmt: skip
    assert names(url, "train.lr=0.2", sort="-started", limit=1) == "c"


def test_what_runs_are_not_found_or_sorted_by_is_refused_with_what_there_is():
    with pytest.raises(SettingsError, match=r"--where 'xyzzy=1': runs have no xyzzy\. Choose group,"):
        chosen(["xyzzy=1"])
    with pytest.raises(SettingsError, match=r"--where 'grop=x': runs have no grop; did you mean group\? Choose group,"):
        chosen(["grop=x"])
    with pytest.raises(SettingsError, match="--where 'group': write it as key=value"):
        chosen(["group"])
    with pytest.raises(SettingsError, match="--sort 'accuracy': choose one of started, "):
        chosen([], "accuracy")
    assert chosen(["train.anything=1"]) == Choice({"train.anything": "1"}), "a plug-in's setting may be anything"


def call(*words: object) -> list[str]:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_a_list_shows_the_settings_in_which_the_runs_of_a_comparison_differ(url):
    shown = call(
        "list", "--store", url, "--where", "group=rates", "--sort", "seed", "--columns", "run,method,settings,seed"
    )
    assert [line.split() for line in shown] == [
        ["run", "method", "settings", "seed"], ["a", "fedit", "train.lr=0.1", "0"], ["b", "fedit", "train.lr=0.2", "0"],
        ["c", "ffa", "train.lr=0.2", "1"],
    ]  # fmt: skip
    one = call("list", "--store", url, "--where", "method=ffa", "--columns", "settings")
    assert one == ["settings", "train.lr=0.2 data.held_out=800"], "of one alone all that was changed"
    assert call("list", "--store", url, "--where", "method=none")[-1] == "No such run."
    with pytest.raises(SettingsError, match="--columns 'colour': choose from run, id, state, group, method, settings"):
        call("list", "--store", url, "--columns", "run,colour")


def test_the_fields_are_in_the_json_and_a_seed_that_no_column_holds_is_not_known(url):
    listed = {run["name"]: run for run in json.loads("\n".join(call("list", "--store", url, "--json")))}
    fields = [listed["c"][name] for name in ("group", "method", "changed", "seed")]
    assert fields == ["rates", "ffa", {"train.lr": 0.2, "data.held_out": 800}, 1]
    assert [listed["d"][name] for name in ("group", "method", "changed", "seed")] == [None, None, None, None]


def test_a_run_that_goes_on_keeps_what_it_is_one_of(url):
    store = open_store(url)
    with store.writing() as connection:
        begin_run(connection, facts("a" * 32, name="a", recipe={"seed": 0}), at=5000.0)
        assert find_run(connection, "a").group == "rates"
    store.close()


def test_the_seed_of_a_run_of_before_is_read_from_its_recipe(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'older.db'}")
    migrated(engine, "0003", *BEFORE_TASKS.split(";"), "UPDATE runs SET recipe = json_object('seed', 7)")
    store = open_store(tmp_path / "older.db")
    with store.reading() as connection:
        assert [(run.seed, run.group, run.changed) for run in read_runs(connection)] == [(7, None, None)]
    store.close()


@pytest.mark.parametrize(
    "recipe", ["{}", "no json", "[]", '{"seed": "x"}', '{"seed": 1e400}', '{"seed": 1%s}' % ("0" * 30)]
)
def test_a_recipe_without_a_seed_stops_no_migration(recipe):
    assert seed_of(recipe) is None


def test_what_a_run_is_one_of_is_read_as_it_was_written_and_what_cannot_be_read_is_not_known(tmp_path):
    trial = Trial("rates", "fedit", {"train.lr": 0.1, "devices.blue.r": None, "wire.codec": "int4"})
    write_trial(tmp_path, trial)
    assert read_trial(tmp_path) == trial
    for damage in ("", "[]", "3", '{"group": "x"}', '{"changed": 3}', "[" * 100_000):
        (tmp_path / FILE).write_text(damage)
        assert read_trial(tmp_path) is None
    assert trial_in({"name": "a summary of before", "seed": 0}) is None
