"""Starting runs from elsewhere: where it goes, what is refused before anything is made, what is said of ε."""

from __future__ import annotations

import pytest

from fedlora.privacy.accounting import Event, epsilon
from fedlora.settings import SettingsError
from server.launch import Launchpad, launchpad, packaged_recipes, planned_epsilon, read_recipe, resume, start
from server.provision import initialise


def test_every_packaged_recipe_can_be_chosen():
    recipes = packaged_recipes()
    assert "six-airlines" in recipes
    assert all(read_recipe(text).name == name for name, text in recipes.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lrr: 1}", r"unknown setting train\.lrr; did you mean train\.lr\?"),
        ("a: [1", "the recipe is not YAML for settings"),
        ("", "the recipe is empty; write `key: value` settings"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_way_out(text, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(text)


def test_a_store_in_a_file_has_a_folder_of_runs_and_a_database_elsewhere_has_none(tmp_path):
    assert launchpad(str(tmp_path / "fedlora.db")) == Launchpad(tmp_path.resolve(), str(tmp_path / "fedlora.db"))
    assert launchpad(f"sqlite:///{tmp_path}/fedlora.db").runs == tmp_path.resolve()
    assert launchpad("postgresql://db/fedlora") is None
    assert launchpad(str(tmp_path / "nowhere" / "fedlora.db")) is None


def test_beside_a_coordinator_a_run_is_submitted_to_it_once(tmp_path):
    folder = tmp_path / "coordinator"
    initialise(folder, name="net", address="localhost:9092")
    pad = launchpad(str(folder / "store.db"))
    recipe = read_recipe(packaged_recipes()["fedsvd"])
    assert start(pad, recipe, name="first") == pad.deployment.runs / "first"
    assert (pad.deployment.runs / "first" / "submission.json").exists()
    with pytest.raises(SettingsError, match="there is already a run 'first'"):
        start(pad, recipe, name="first")
    with pytest.raises(SettingsError, match="a deployed run is `federated`"):
        start(pad, recipe.model_copy(update={"mode": "pooled"}), name="second")


@pytest.mark.parametrize("name", ["../evil", "", "A b"])
def test_a_name_that_is_no_folder_is_refused_before_anything_is_made(tmp_path, name):
    with pytest.raises(SettingsError, match="must be 1 to 63 small letters"):
        start(Launchpad(tmp_path, "x"), read_recipe(packaged_recipes()["fedsvd"]), name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_simulation_takes_no_folder_that_is_there(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(SettingsError, match="there is already a run 'taken'"):
        start(Launchpad(tmp_path, "x"), read_recipe(packaged_recipes()["fedsvd"]), name="taken")


def test_only_a_run_with_a_checkpoint_on_this_machine_goes_on(tmp_path):
    with pytest.raises(SettingsError, match="is not on this machine; resume the run where it is"):
        resume(Launchpad(tmp_path, "x"), tmp_path / "gone", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="holds no checkpoint"):
        resume(Launchpad(tmp_path, "x"), tmp_path / "empty", {})


def test_the_planned_epsilon_is_the_target_or_what_sigma_composes_to():
    recipe = read_recipe(packaged_recipes()["fedsvd"])
    assert planned_epsilon(recipe, examples=1000) is None

    def private(**changes):
        return recipe.model_copy(update={"privacy": recipe.privacy.model_copy(update=changes)})

    assert planned_epsilon(private(epsilon=3.0), examples=1000) == 3.0
    steps = recipe.train.steps * recipe.rounds.count
    event = Event(rate=recipe.train.batch_size / 1000, noise_multiplier=1.5, steps=steps)
    planned = planned_epsilon(private(noise_multiplier=1.5), examples=1000)
    assert planned == epsilon([event], delta=recipe.privacy.delta)
