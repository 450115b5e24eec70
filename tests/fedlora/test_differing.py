"""What two recipes differ in, by dotted names."""

from __future__ import annotations

import yaml

from fedlora.config import Recipe, load
from fedlora.differing import changed, changed_by, differences, own
from fedlora.settings import parse


def test_what_was_changed_of_a_recipe_gives_it_back(recipe):
    """The changed settings set on the first are the second, whatever they were."""
    before = recipe()
    after = recipe("train.lr=0.25", "wire.codec=int4", "devices.blue.r=1", "seed=7", "name=other", "rounds.count=9")
    found = changed(before, after)
    assert {name: found[name] for name in ("train.lr", "wire.codec", "devices.blue.r", "rounds.count")} == {
        "train.lr": 0.25, "wire.codec": "int4", "devices.blue.r": 1, "rounds.count": 9,
    }  # fmt: skip
    assert not found.keys() & {"seed", "name"}
    assert changed(before, before) == {}


def test_what_was_set_is_told_even_where_it_is_what_the_recipe_says_already(tmp_path, recipe):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(recipe("train.lr=0.5").model_dump(mode="json")))
    assert changed_by(str(path), ["train.lr=5e-1", "seed=3"]) == {"train.lr": 0.5}
    assert changed_by(str(path), ["train.lr=0.25", "seed=3"]) == {"train.lr": 0.25}


def test_of_a_file_that_is_no_whole_recipe_what_was_set_is_what_was_changed(tmp_path):
    path = tmp_path / "half.yaml"
    path.write_text("train: {lr: -1}\n")
    assert changed_by(str(path), ["train.lr=0.25"]) == {"train.lr": 0.25}


def test_recipes_side_by_side_show_where_not_all_agree():
    recipes = [{"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, {"a": {"b": 1, "c": 3}}]
    assert differences(recipes) == {"a.c": [2, None, 3]}
    assert differences([]) == {}


def test_what_all_have_alike_is_not_a_run_s_own():
    assert own([{"x": 1, "y": None}, {"x": 1}, {"x": 1, "y": 2}]) == [{"y": None}, {}, {"y": 2}]
    assert own([]) == []


def test_a_packaged_recipe_differs_from_itself_in_nothing():
    assert changed(load("fedit"), parse(Recipe, load("fedit").model_dump(mode="json"))) == {}
