"""What belongs to the machine is out of recipes: packaged ones, what is written for people, and what is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.config import ComputeSettings, Recipe, load
from fedlora.config.compute import OWN
from fedlora.config.former import DEFAULTS, FORMER, former_remarks, recipe_text
from fedlora.packaged import packaged

STATED = ["model.device=cpu:0", "train.microbatch_size=4"]
ROOT = Path(__file__).parents[3]


def test_a_machine_that_says_nothing_computes_as_the_recipe_says():
    recipe = load("fedit", [])
    assert OWN.placed(recipe) is recipe


def test_a_machine_s_own_word_counts_and_leaves_the_recipe_alone():
    recipe = load("fedit", [*STATED, "model.dtype=bfloat16"])
    placed = ComputeSettings(device="cuda:1", microbatch=2).placed(recipe)
    assert (placed.model.device, placed.model.dtype, placed.train.microbatch_size) == ("cuda:1", "bfloat16", 2)
    assert ComputeSettings(dtype="float32").placed(recipe).model.dtype == "float32"
    assert (recipe.model.device, recipe.train.microbatch_size) == ("cpu:0", 4)


def test_a_former_setting_is_taken_and_said_with_where_it_belongs():
    device, pieces = former_remarks(load("fedit", STATED))
    assert re.match(r"model\.device=cpu:0 .*--device cpu:0 .*`device: cpu:0` in client\.yaml and server\.yaml", device)
    assert re.match(r"train\.microbatch_size=4 .*--microbatch 4 .*`microbatch: 4` in client\.yaml", pieces)
    assert list(former_remarks(load("fedit", []))) == []


def test_what_is_written_for_people_has_a_former_setting_only_where_it_says_something(tmp_path):
    plain, stated = (yaml.safe_load(recipe_text(load("fedit", asked))) for asked in ([], STATED))
    assert "device" not in plain["model"]
    assert "microbatch_size" not in plain["train"]
    assert (stated["model"]["device"], stated["train"]["microbatch_size"]) == ("cpu:0", 4)
    (tmp_path / "again.yaml").write_text(recipe_text(load("fedit", STATED)))
    assert load(tmp_path / "again.yaml", []) == load("fedit", STATED)


def test_config_check_says_it_and_config_show_lists_no_former_setting():
    said = CliRunner().invoke(app, ["config", "check", "fedit", "--set", "model.device=cpu:0"])
    assert said.exit_code == 0
    assert "note: model.device=cpu:0" in said.stderr
    shown = CliRunner().invoke(app, ["config", "show"]).stdout
    assert not [key for key in FORMER if key in shown]
    assert "model.dtype" in shown


@pytest.mark.parametrize("name", packaged())
def test_packaged_recipes_leave_machines_alone(name):
    assert list(former_remarks(load(name, []))) == []
    assert not set(FORMER) & set(keys(yaml.safe_load(packaged()[name].read_text())))


def test_the_manuals_know_of_no_former_setting():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    history = {"LOG.md", "upgrading.md"}
    assert not [(page.name, key) for page in pages if page.name not in history for key in FORMER
                if key in page.read_text(encoding="utf-8")]  # fmt: skip


def test_defaults_are_those_of_0_1_0_that_travel():
    assert DEFAULTS == {"model.device": "cpu", "train.microbatch_size": None}
    assert Recipe().model.device == "cpu"


def keys(values: dict, prefix: str = ""):
    for name, value in (values or {}).items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from keys(value, f"{prefix}{name}.")
