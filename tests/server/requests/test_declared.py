"""Declarations of sites: remembered across runs, used by a run that plans, harmless where they are wrong."""

from __future__ import annotations

import json

import pytest

from fedlora.config import AdapterSettings, DeviceSettings, Recipe
from fedlora.settings import SettingsError
from server.requests.declared import planned_for, read_declared, readable, remember
from server.requests.planner import Shape

SHAPE = Shape(tuple(((f"{i}.query", 8, 8),) for i in range(4)), activation_bytes=1e6, batch=1)
SMALL, TINY = DeviceSettings(depth=2), DeviceSettings(memory_mb=1e-6)


def recipe(**devices: DeviceSettings) -> Recipe:
    return Recipe(adapter=AdapterSettings(r=8), devices=devices)


def test_the_newest_declaration_of_a_site_is_remembered(tmp_path):
    assert read_declared(tmp_path) == {}
    remember(tmp_path, "a", DeviceSettings(depth=1))
    remember(tmp_path, "b", DeviceSettings(r=2))
    remember(tmp_path, "a", SMALL)
    assert read_declared(tmp_path) == {"a": SMALL, "b": DeviceSettings(r=2)}
    assert json.loads((tmp_path / "resources.json").read_text())["a"] == {
        "depth": 2, "distribution": "uniform", "transfer_s": 60.0,
    }  # fmt: skip


def test_a_damaged_file_says_what_to_do(tmp_path):
    (tmp_path / "resources.json").write_text("{")
    with pytest.raises(SettingsError, match="delete it"):
        read_declared(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": {"colour": 1}}', '{"a": 1}'])
def test_a_damaged_file_keeps_no_run_from_going_on_and_is_mended_by_the_next_declaration(tmp_path, text):
    (tmp_path / "resources.json").write_text(text)
    assert readable(tmp_path) == {}
    remember(tmp_path, "b", SMALL)
    assert readable(tmp_path) == {"b": SMALL}


def test_a_declaration_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    remember(tmp_path / "no such folder", "a", SMALL)


def test_a_run_that_plans_uses_declarations_but_its_recipe_has_the_last_word():
    planned = planned_for(recipe(others=DeviceSettings(), b=DeviceSettings(r=4)), {"a": SMALL, "b": SMALL}, SHAPE)
    assert planned.devices == {"a": SMALL, "b": DeviceSettings(r=4), "others": DeviceSettings()}


def test_a_run_that_does_not_plan_is_as_it_was():
    plain = recipe()
    assert planned_for(plain, {"a": SMALL}, SHAPE) is plain


def test_a_declaration_that_nothing_fits_does_not_keep_a_run_from_starting():
    planned = planned_for(recipe(others=DeviceSettings()), {"a": SMALL, "mistaken": TINY}, SHAPE)
    assert set(planned.devices) == {"a", "others"}
