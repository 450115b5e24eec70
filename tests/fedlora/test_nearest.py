"""A path that is not there: the one beside it that was meant is named, wherever a path is asked for."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedlora.cli import app, way_out
from fedlora.data.rows import files_of
from fedlora.models.base import locate
from fedlora.nearest import did_you_mean
from fedlora.packaged import recipe_file
from fedlora.settings import SettingsError, read_mapping


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("recipe.yaml", "messages.csv", "messages.parquet", "data/north.csv", ".hidden.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("a: 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("missing", "meant"),
    [
        ("recpie.yaml", "recipe.yaml"),
        ("./Recipe.yml", "recipe.yaml"),
        ("message.csv", "messages.csv"),
        ("messages.parqet", "messages.parquet"),
        ("messages", "messages.csv"),
        ("dta/nroth.csv", "data/north.csv"),
        ("dat", "data"),
    ],
)
def test_the_near_file_is_named(missing, meant):
    assert did_you_mean(missing) == f" Did you mean {meant}?"


@pytest.mark.parametrize(
    "path",
    ["nothing.yaml", "recipe.yaml", "data", "south/x.csv", "hidden.yaml", "", "recipe.yaml/x", "x" * 5000, "a\0b"],
)
def test_what_is_there_or_like_nothing_that_is_there_brings_no_guess(path):
    assert did_you_mean(path) == ""


def test_an_absolute_path_and_a_strange_name_are_told_as_they_can_be_typed(folder):
    (folder / "pri\x1bvate.json").write_text("")
    assert did_you_mean(folder / "recpie.yaml") == f" Did you mean {folder / 'recipe.yaml'}?"
    assert did_you_mean("private.json") == r" Did you mean 'pri\x1bvate.json'?"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (lambda: recipe_file("recpie.yaml"), "recipe.yaml"),
        (lambda: files_of("mesages.csv"), "messages.csv"),
        (lambda: locate("./dta"), "data"),
        (lambda: read_mapping(Path("recpie.yaml"), "the recipe"), "recipe.yaml"),
    ],
    ids=["recipe", "data", "model", "settings"],
)
def test_every_door_names_it(asked, meant):
    with pytest.raises(SettingsError, match=rf"Did you mean {meant}\?"):
        asked()


def test_the_commands_name_it():
    for typed in ("config check recpie.yaml", "init mesages.csv --out other.yaml", "simulate recpie.yaml"):
        assert "Did you mean " in str(CliRunner().invoke(app, typed.split()).exception)
    assert way_out(FileNotFoundError(errno.ENOENT, "none", "recpie.yaml")).endswith(" Did you mean recipe.yaml?")
