"""Starting runs from elsewhere: where it goes, what is refused before anything is made, what is said of ε."""

from __future__ import annotations

import pytest

from fedlora.config.adapter import FirstStepSettings
from fedlora.privacy.accounting import Event, epsilon
from fedlora.settings import SettingsError
from server.runs.launch import (
    RunLauncher,
    first_step_epsilon,
    launchpad,
    packaged_recipes,
    planned,
    planned_epsilon,
    read_recipe,
    resume,
    start,
)
from server.trust.provision import initialise


def test_every_packaged_recipe_can_be_chosen():
    recipes = packaged_recipes()
    assert "six-airlines" in recipes
    assert all(read_recipe(text).name == name for name, text in recipes.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lrr: 1}", r"unknown setting train\.lrr; did you mean train\.lr\?"),
        ("a: [1", "the recipe is not valid YAML for settings"),
        ("", "the recipe is empty; write `key: value` settings"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_way_out(text, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(text)


def test_a_store_in_a_file_has_a_folder_of_runs_and_a_database_elsewhere_has_none(tmp_path):
    assert launchpad(str(tmp_path / "fedlora.db")) == RunLauncher(tmp_path.resolve(), str(tmp_path / "fedlora.db"))
    assert launchpad(f"sqlite:///{tmp_path}/fedlora.db").runs == tmp_path.resolve()
    assert launchpad("postgresql://db/fedlora") is None
    assert launchpad(str(tmp_path / "nowhere" / "fedlora.db")) is None


def test_beside_a_coordinator_a_run_is_submitted_to_it_once(tmp_path):
    folder = tmp_path / "coordinator"
    initialise(folder, name="net", address="localhost:9092")
    pad = launchpad(str(folder / "store.db"))
    recipe = read_recipe("data: {labels: [bad, good]}")
    assert start(pad, recipe, name="first") == pad.deployment.runs / "first"
    assert (pad.deployment.runs / "first" / "submission.json").exists()
    with pytest.raises(SettingsError, match="there is already a run 'first'"):
        start(pad, recipe, name="first")
    with pytest.raises(SettingsError, match="a deployed run is always `federated`"):
        start(pad, recipe.model_copy(update={"mode": "pooled"}), name="second")


@pytest.mark.parametrize("name", ["../evil", "", "A b"])
def test_a_name_that_is_no_folder_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(SettingsError, match="must be 1 to 63 small letters"):
        start(RunLauncher(tmp_path, "x"), read_recipe(packaged_recipes()["fedsvd"]), name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_takes_no_folder_that_is_there(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingsError, match="there is already a run 'taken'"):
        start(RunLauncher(tmp_path, "x"), read_recipe(packaged_recipes()["fedsvd"]), name="taken")


def test_only_a_run_with_a_checkpoint_on_this_machine_goes_on(tmp_path):
    with pytest.raises(SettingsError, match="is not on this machine; resume the run on the machine that has it"):
        resume(RunLauncher(tmp_path, "x"), tmp_path / "gone", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="contains no checkpoint"):
        resume(RunLauncher(tmp_path, "x"), tmp_path / "empty", {})


def private(name: str = "fedsvd", **changes):
    recipe = read_recipe(packaged_recipes()[name])
    return recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update=changes)})


def test_the_planned_epsilon_is_what_a_sites_guard_can_charge():
    assert planned_epsilon(private(), examples=1000) is None
    assert 2.9 < planned_epsilon(private(epsilon=3.0), examples=1000) <= 3.0
    recipe = private(noise_multiplier=1.5, spare_rounds=3)
    event = Event(
        rate=recipe.train.batch_size / 1500, noise_multiplier=1.5, steps=recipe.train.steps * recipe.most_charges
    )
    assert planned_epsilon(recipe, examples=1990) == epsilon([event], delta=recipe.privacy.delta)


def test_a_simulation_that_takes_fewer_examples_of_a_client_costs_it_more():
    recipe = private(noise_multiplier=1.5)
    fewer = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_examples": 300})})
    assert planned_epsilon(fewer, examples=2000) == planned_epsilon(recipe, examples=300)


def test_what_a_site_would_refuse_is_said_before_anything_starts():
    with pytest.raises(SettingsError, match=r"a site of 100 training examples would refuse: delta 0\.01 is not below"):
        planned_epsilon(private(epsilon=3.0, delta=0.01), examples=100)


def test_pooled_examples_are_planned_with_the_steps_of_all_clients():
    recipe = private(noise_multiplier=1.5).model_copy(update={"mode": "pooled"})
    with pytest.raises(SettingsError, match=r"their number is not known before the data are read"):
        planned_epsilon(recipe, examples=1000)
    parts = recipe.model_copy(update={"data": recipe.data.model_copy(update={"partition": "iid", "clients": 4})})
    longer = recipe.model_copy(
        update={"mode": "federated", "train": recipe.train.model_copy(update={"steps": 4 * recipe.train.steps})}
    )
    assert planned_epsilon(parts, examples=1000) == planned_epsilon(longer, examples=1000)


def test_the_round_that_asks_for_gradients_is_planned_as_the_run_of_its_own_that_it_is():
    recipe = private(epsilon=3.0)
    assert first_step_epsilon(recipe, examples=1000) is None
    first = FirstStepSettings(epsilon=2.0, batch_size=16)
    adapter = recipe.adapter.model_copy(update={"init": "client-gradients", "kind": "lora_xs", "first_step": first})
    asks = recipe.model_copy(update={"adapter": adapter})
    assert 1.9 < first_step_epsilon(asks, examples=1000) <= 2.0
    assert planned_epsilon(asks, examples=1000) == planned_epsilon(recipe, examples=1000)


@pytest.mark.parametrize("does", [planned, start])
def test_a_simulation_of_what_does_not_go_together_is_neither_planned_nor_started(tmp_path, does):
    pad, dropping = RunLauncher(tmp_path, "x"), read_recipe("{adapter: {dropout: 0.1}, privacy: {epsilon: 3}}")
    more = {"examples": 1000} if does is planned else {"name": "first"}
    with pytest.raises(SettingsError, match=r"adapter\.dropout=0\.1 and privacy exclude each other"):
        does(pad, dropping, **more)
    assert list(tmp_path.iterdir()) == []


def test_the_page_refuses_what_the_terminal_refuses(tmp_path):
    """Both look before they submit: `server.runs.preflight`."""
    settings = initialise(tmp_path / "net", name="net", address="127.0.0.1:1")
    settings = settings.model_copy(update={"labels": ("bad", "good")})
    pad = RunLauncher(settings.runs, settings.store_url, settings)
    idle = read_recipe("train: {optimizer: adamw, momentum: 0.9}")
    with pytest.raises(SettingsError, match=r"momentum=0\.9 has no effect"):
        start(pad, idle, name="first")
    with pytest.raises(SettingsError, match="mode='alone' is for simulations only"):
        start(pad, read_recipe("mode: alone"), name="first")
    assert not (settings.runs / "first").exists()
