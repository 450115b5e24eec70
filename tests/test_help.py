"""--help teaches: every command, every positional argument and every option says what it is."""

from __future__ import annotations

import re

import click
import pytest
from typer.testing import CliRunner

from fedlora.cli import COMMANDS, app, load_command


def commands() -> dict[str, click.Command]:
    """Every command that can be typed, by its words."""
    found: dict[str, click.Command] = {}

    def add(words: str, command: click.Command) -> None:
        inner = getattr(command, "commands", None)
        found[words] = command
        for name, below in (inner or {}).items():
            add(f"{words} {name}", below)

    for name in COMMANDS:
        add(name, load_command(name))
    return found


EVERY = commands()


def words(text: str) -> str:
    """Without frames and line breaks."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_says_what_it_is(name):
    shown = words(CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "300"}).output)
    assert words(EVERY[name].help or "").strip().partition(".")[0] in shown
    for parameter in EVERY[name].params:
        text = getattr(parameter, "help", None)
        if parameter.name != "help" and not getattr(parameter, "hidden", False):
            assert text, f"{name}: {parameter.name} has no help"
            assert words(text).strip() in shown, f"{name}: the help of {parameter.name} is not printed"
