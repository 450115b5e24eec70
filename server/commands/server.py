"""`fedlora server ...`: what runs. Who takes part: `admin.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedlora.listing import listing
from fedlora.settings import SettingsError

server = typer.Typer(no_args_is_help=True, add_completion=False, help="Run a deployed coordinator and its runs.")

Config = Annotated[Path, typer.Option(help="The coordinator's settings.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT = Path("server.yaml")
console = Console(highlight=False, soft_wrap=True)


@server.command()
def up(config: Config = DEFAULT) -> None:
    """Run the coordinator until it is stopped."""
    from fedlora.processes.json_logs import log_json_lines
    from fedlora.processes.unbegun import end_where_a_thread_cannot_begin
    from server.deployment.up import serve
    from server.settings import load_server

    log_json_lines()
    end_where_a_thread_cannot_begin()
    serve(load_server(config), config)


@server.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")],
    config: Config = DEFAULT,
    name: Annotated[str | None, typer.Option(help="Name of the run; the recipe's when not given.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key.path=value")] = None,
) -> None:
    """Submit a run; a running coordinator starts it, and restarts it from its checkpoint if it dies."""
    from fedlora.config import load
    from fedlora.differing import changed_by
    from fedlora.plugins.gate import open_to
    from server.runs.preflight import look_before
    from server.runs.submissions import submit
    from server.settings import load_server
    from server.trial import Trial

    settings = load_server(config)
    open_to(settings.plugins)
    parsed = load(recipe, overrides or [])
    for line in look_before(settings, parsed):
        console.print(line, markup=False)
    trial = Trial(None, parsed.name, changed_by(recipe, overrides or []))
    folder = submit(settings, parsed, name=name or parsed.name, trial=trial)
    console.print(f"{folder.name} is submitted: {folder}. Watch it with: fedlora server logs {folder.name}")


@server.command()
def stop(name: Annotated[str, typer.Argument(help="Name of the run.")], config: Config = DEFAULT) -> None:
    """Stop a run; `resume` continues it."""
    from server.flower.control import Control
    from server.runs.submissions import run_folder
    from server.runs.submissions import stop as halt
    from server.settings import load_server

    settings = load_server(config)
    halt(run_folder(settings, name), Control(settings))
    console.print(f"{name} is stopped.")


@server.command()
def resume(name: Annotated[str, typer.Argument(help="Name of the run.")], config: Config = DEFAULT) -> None:
    """Resume a run that was stopped or has failed, from its checkpoint."""
    from server.runs.submissions import resume as go_on
    from server.runs.submissions import run_folder
    from server.settings import load_server

    go_on(run_folder(load_server(config), name))
    console.print(f"{name} resumes.")


@server.command("list")
def list_runs(config: Config = DEFAULT, json_output: Json = False) -> None:
    """List all runs: state, rounds and attempts."""
    from server.runs.submissions import completed_rounds, look_at, runs
    from server.settings import load_server

    rows = []
    for folder in runs(load_server(config)):
        look = look_at(folder)
        rows.append(
            {
                "run": folder.name,
                "state": look.state,
                "rounds": completed_rounds(folder),
                "attempts": look.submission.attempts,
                "why": look.why,
            }
        )
    if json_output:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        console.print("No runs yet. Submit one with: fedlora server run RECIPE")
        return
    headings = ("run", "state", "rounds", "attempts")
    first, *others = listing(headings, [[str(row[name]) for name in headings] for row in rows], width=console.width)
    console.print(first, style="bold", markup=False)
    for row, text in zip(rows, others, strict=True):
        console.print(text, markup=False)
        if row["why"] is not None:
            console.print(f"    {row['why']}", markup=False)


@server.command()
def logs(
    name: Annotated[str, typer.Argument(help="Name of the run.")],
    config: Config = DEFAULT,
    lines: Annotated[int, typer.Option(help="Number of lines, from the end.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines until the run ends.")] = False,
) -> None:
    """Show a run's log: rounds, answers, and how long it will still wait for sites."""
    from server.runs.run_log import log_lines
    from server.runs.submissions import is_over, run_folder
    from server.settings import load_server

    folder = run_folder(load_server(config), name)
    if not (folder / "run.log").exists() and not follow:
        raise SettingsError(
            f"{name} has not started: {folder / 'run.log'} is not there yet. Is `fedlora server up` running?"
        )
    for line in log_lines(folder, last=lines, until=(lambda: is_over(folder)) if follow else lambda: True):
        typer.echo(line)


@server.command()
def doctor(config: Config = DEFAULT, json_output: Json = False) -> None:
    """Check this coordinator; every problem comes with a remedy. Exit status 1 if something must be fixed."""
    from fedlora.deployment.findings import report
    from server.deployment.doctor import examine

    raise typer.Exit(report(examine(config), console, as_json=json_output))
