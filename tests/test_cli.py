"""The command line: help without heavy imports, and errors that name the key, the value and the way out."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedlora.cli import COMMANDS, app, load_command, main, way_out
from fedlora.config import Recipe, load
from fedlora.config.former import FORMER
from fedlora.settings import SettingsError
from simulations.commands.recipes import settings_of

RECIPES = sorted((Path(__file__).resolve().parents[1] / "simulations/recipes").glob("*.yaml"))


def test_help_lists_every_command_without_importing_torch():
    code = (
        "import sys; from fedlora.cli import app; from typer.testing import CliRunner;"
        "result = CliRunner().invoke(app, ['--help']); print(result.output);"
        "assert 'torch' not in sys.modules and 'flwr' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_settings_are_explained_without_importing_torch():
    code = (
        "import sys; from fedlora.cli import app; from typer.testing import CliRunner;"
        "said = [CliRunner().invoke(app, ['config', *words]).output for words in (['show', 'train.lr'], ['schema'])];"
        "print(*said); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Learning rate of the adapter" in done.stdout
    assert '"$schema"' in done.stdout


@pytest.mark.parametrize("name", ["predict", "eval", "chat", "export"])
def test_at_a_terminal_a_command_that_loads_for_seconds_says_so(monkeypatch, capsys, name):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        app([name, "--no-such-option"])
    assert "loading ..." in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_table_loads(name):
    assert load_command(name).name == name


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_packaged_recipe_is_valid(recipe):
    assert load(recipe).name == recipe.stem


def write(tmp_path: Path, values: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"lrr": 1}}, r"unknown setting train\.lrr; did you mean train\.lr\?"),
        ({"trian": {}}, r"unknown setting trian; did you mean train\?"),
        ({"train": {"lr": -1}}, r"train\.lr must be greater than 0, got -1"),
        ({"rounds": {"count": "many"}}, r"rounds\.count must be a valid integer.*got 'many'"),
        ({"data": {"partition": "iid"}}, r"data\.clients is missing"),
        ([1, 2], r"must hold `key: value` settings, not a list"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_way_out(tmp_path, values, message):
    with pytest.raises(SettingsError, match=message):
        load(write(tmp_path, values))


def test_every_problem_is_listed_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, {"train": {"lrr": 1, "steps": 0}}))
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_or_broken_file_is_said(tmp_path):
    with pytest.raises(SettingsError, match="cannot read the recipe"):
        load(tmp_path / "nothing.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    with pytest.raises(SettingsError, match="is not valid YAML for settings: line "):
        load(broken)


def test_overrides_take_precedence_and_say_when_they_are_malformed(tmp_path):
    path = write(tmp_path, {"train": {"lr": 0.5}})
    assert load(path, ["train.lr=1e-3", "strategy.name=ffa"]).train.lr == 1e-3
    with pytest.raises(SettingsError, match="write it as key=value"):
        load(path, ["train.lr"])


def test_an_error_is_one_line_and_status_two(tmp_path):
    path = write(tmp_path, {"train": {"lrr": 1}})
    done = subprocess.run(
        [sys.executable, "-m", "fedlora", "config", "check", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown setting train.lrr")
    assert "Traceback" not in done.stderr


def test_config_show_explains_every_setting():
    done = subprocess.run([sys.executable, "-m", "fedlora", "config", "show"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((f" {key} " in done.stdout) == (key not in FORMER) for key, _, _ in settings_of(Recipe))
    assert all(meaning for _, _, meaning in settings_of(Recipe))


def test_config_show_of_an_unknown_section_names_those_that_there_are():
    done = subprocess.run([sys.executable, "-m", "fedlora", "config", "show", "trian"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no section 'trian'; there are: name, mode, seed, model" in " ".join(done.stderr.split())


def test_config_show_explains_one_setting_alone():
    said = CliRunner().invoke(app, ["config", "show", "train.lr"]).output
    assert "train.lr" in said
    assert "train.head_lr" not in said


def typed(*words: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedlora", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_a_place_that_cannot_be_used_is_said_in_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = typed("admin", "init", tmp_path / "file" / "net", "--name", "net", "--address", "localhost:1")
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {tmp_path / 'file' / 'net'}: Not a directory. Is the path right?\n",
    )


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "ask its owner"), (errno.EROFS, "another folder"), (errno.ENOSPC, "Free some disk space"),
        (errno.ENOENT, "Is the path right?"), (errno.EIO, "Try again"),
    ],
)  # fmt: skip
def test_the_way_out_of_each_error_of_a_file(number, words):
    assert words in way_out(OSError(number, "", "x"))


def test_an_error_that_no_file_is_in_keeps_its_traceback(monkeypatch):
    def refused() -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr("fedlora.cli.app", refused)
    with pytest.raises(ConnectionRefusedError):
        main()
