"""The `fedlora` command: a table of names, each loaded only when it is called, so that --help is instant.

The commands live where their code runs (server/, client/, simulations/, ...); this file names them without importing
them, which keeps `fedlora` below all other packages.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
from typing import Any

import click
import typer
from typer.core import TyperGroup

from fedlora import __version__
from fedlora.nearest import did_you_mean
from fedlora.plugins.gate import open_to
from fedlora.processes.imports import without_collecting
from fedlora.settings import RunError, SettingsError
from fedlora.units_path import add_units_to_path

COMMANDS = {
    "init": ("simulations.commands.init:init", "Inspect a data file and write a recipe for it."),
    "import-flowertune": ("simulations.commands.import_flowertune:import_flowertune", "A FlowerTune app as a recipe."),
    "simulate": ("simulations.commands.simulate:simulate", "Run a recipe: coordinator and clients in one process."),
    "recipes": ("simulations.commands.recipes:recipes", "List the packaged recipes, with a sentence each."),
    "find-lr": ("simulations.commands.find_lr:find_lr", "Find a learning rate for a recipe by short runs."),
    "compare": ("simulations.commands.compare:compare", "Compare finished or new runs: table, CSV, picture."),
    "export": ("fedlora.exports.commands:export", "Export a run for PEFT, vLLM, llama.cpp, Ollama, or merged."),
    "push": ("fedlora.exports.pushing:push", "Publish a run's adapter on a hub; asked for by name, never by default."),
    "predict": ("fedlora.results.commands:predict", "Answer the rows of a file with a run's result."),
    "eval": (
        "fedlora.results.commands:evaluate",
        "Measure a run's result on a file: by class, by client, by its base.",
    ),
    "gate": ("fedlora.gate.commands:gate", "Hold a result against its base and bounds before it is passed on."),
    "chat": ("fedlora.results.commands:chat", "Talk to a language model that a run made, beside its base."),
    "strategies": ("strategies.commands:strategies", "List the strategies: what each trains, sends and guarantees."),
    "probe": ("strategies.commands:probe_adapters", "Is averaging a PEFT adapter type exact?"),
    "wire": ("simulations.commands.wire:app", "Show a message's contents; plan the bytes a recipe will send."),
    "privacy": ("simulations.commands.privacy:app", "Plan a private run's noise; audit its claim by canaries."),
    "ledger": (
        "fedlora.privacy.commands:ledger_app",
        "Show, verify and export the privacy budget that a site's data have spent.",
    ),
    "runs": ("server.commands.runs:app", "Runs in the store: list, show, import, export, rm."),
    "server": (
        "server.commands.server:server",
        "Run a coordinator: up, run, list, stop, resume, logs, doctor.",
    ),
    "admin": ("server.commands.admin:admin", "Set up a coordinator; approve, list and revoke sites; back up."),
    "client": ("client.deployment.commands:app", "Set up and run a site: enroll, accept, up, doctor."),
    "dashboard": ("server.dashboard.commands:app", "Watch and control runs in a browser; users and API tokens."),
    "plugins": ("fedlora.plugins.commands:plugins", "List what installed packages add, and how a site allows it."),
    "config": ("simulations.commands.config:app", "Check a recipe, or explain every setting."),
}


SERVICES = ("server", "admin", "client", "dashboard")
"""Commands that act on other people's recipes and messages: whose code they may load, their own settings say."""
SLOW_TO_LOAD = (
    "init", "import-flowertune", "simulate", "find-lr", "compare", "export", "push", "predict", "eval", "chat",
    "strategies", "probe", "wire", "privacy",
)  # fmt: skip
"""Commands that import torch, transformers and Flower, which takes seconds: a message tells the user."""


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
        if name not in SERVICES:
            open_to("any")
        return name, command and load_command(str(name)), rest


def load_command(name: str) -> click.Command:
    """Import the command: `module:attribute`, the attribute a Typer app or a function."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    with without_collecting():
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
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point. What the person can mend is printed without a traceback: exit status 2 for settings and for files
    that cannot be used, 1 for a run."""
    if sys.platform == "win32":
        typer.secho("error: Windows has no POSIX file locks, on which the ledger rests; use WSL 2.", err=True)
        sys.exit(2)
    add_units_to_path()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it; some CPUs are told of kernels on a hub
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
    """Advice for a file or folder that cannot be used."""
    match error.errno:
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"You are user {os.getuid()}: choose another folder, or ask its owner for access."
        case errno.ENOSPC | errno.EDQUOT:
            return "Free some disk space there and try again."
        case errno.ENOENT | errno.ENOTDIR | errno.EISDIR:
            return f"Is the path right?{did_you_mean(os.fsdecode(error.filename))}"
        case _:
            return "Try again, or choose another folder."
