"""The `fedlora` command: a table of names, each loaded only when it is called, so that --help is instant.

The commands live where their code runs (server/, client/, simulations/, ...); this file names them without importing
them, which keeps `fedlora` below all other packages.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from fedlora import __version__
from fedlora.nearest import did_you_mean
from fedlora.settings import RunError, SettingsError
from fedlora.units_path import add_units_to_path

COMMANDS = {
    "init": ("simulations.commands.init:init", "Look at your file and write a recipe for it."),
    "simulate": ("simulations.commands.simulate:simulate", "Run a recipe: coordinator and clients in one process."),
    "recipes": ("simulations.commands.recipes:recipes", "The packaged recipes, with a sentence each."),
    "find-lr": ("simulations.commands.find_lr:find_lr", "Which learning rate a recipe should have, by short runs."),
    "compare": ("simulations.commands.simulate:compare", "Put finished or new runs side by side: table, CSV, picture."),
    "export": ("fedlora.exports.commands:export", "A run's result for PEFT, vLLM, llama.cpp, Ollama, or merged."),
    "strategies": ("strategies.commands:strategies", "What every strategy trains, sends and guarantees."),
    "probe": ("strategies.commands:probe_adapters", "Is averaging a PEFT adapter type exact?"),
    "wire": ("simulations.commands.wire:app", "What a message holds; how many bytes a recipe will send."),
    "privacy": ("simulations.commands.privacy:app", "Plan a private run's noise; audit its claim by canaries."),
    "ledger": ("fedlora.privacy.commands:ledger_app", "Show, verify and export what a site's data have spent."),
    "runs": ("server.commands.runs:app", "What the store knows of runs: list, show, import, export, rm."),
    "server": (
        "server.commands.server:server",
        "A deployed coordinator: up, run, list, stop, resume, logs, doctor.",
    ),
    "admin": ("server.commands.admin:admin", "Make a coordinator; approve, list and revoke sites; back it up."),
    "client": ("client.deployment.commands:app", "Take part with a site: enroll, accept, up, doctor."),
    "dashboard": ("server.dashboard.commands:app", "Watch and steer runs in a browser; users and API tokens."),
    "config": ("simulations.commands.config:app", "Check a recipe, or explain every setting."),
}


SLOW_TO_LOAD = ("init", "simulate", "find-lr", "compare")
"""What imports torch, transformers and Flower: seconds in which a person should not wonder."""


class LazyGroup(TyperGroup):
    """Lists commands from the table; imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A stand-in that has the name and the help; `resolve_command` loads the real one."""
        if cmd_name not in COMMANDS:
            return None
        return click.Command(cmd_name, help=COMMANDS[cmd_name][1])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in SLOW_TO_LOAD and sys.stderr.isatty() and "--help" not in args:
            typer.secho(f"fedlora {__version__}: loading ...", fg="bright_black", err=True)
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> click.Command:
    """Import the command: `module:attribute`, the attribute a Typer app or a function."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name)(found)
        found = single
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Federated, differentially private fine-tuning with low-rank adapters.",
    epilog="Start with:  fedlora simulate six-airlines",
)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point. What the person can mend is printed without a traceback: exit status 2 for settings and for files
    that cannot be used, 1 for a run."""
    add_units_to_path()
    try:
        app()
    except SettingsError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
    except RunError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.status)
    except OSError as error:
        if error.filename is None:  # not of a file that a person named
            raise
        typer.secho(f"error: {error.filename}: {error.strerror}. {way_out(error)}", fg="red", err=True)
        sys.exit(2)


def way_out(error: OSError) -> str:
    """What to do about a file or folder that cannot be used."""
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"You are user {os.getuid()}: give another place, or have its owner let you in."
        case errno.ENOSPC | errno.EDQUOT:
            return "Make room there, and try again."
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
            return f"Is the path right?{did_you_mean(os.fsdecode(error.filename))}"
        case _:
            return "Try again, or give another place."
