"""`fedlora runs ...`: what is in the store, for a terminal or a script."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fedlora.listing import listing
from fedlora.settings import SettingsError
from server.commands.written import number, printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from server.store.opening import Store
    from server.store.rows import RunRow, RunSiteRow

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Runs in the store: list, show, import, export, rm.")
Where = Annotated[
    str | None,
    typer.Option("--store", help="URL or file; FEDLORA_STORE, server.yaml's or runs/fedlora.db when not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(help="A run's name (the newest of that name), or its id or the first characters of it.")
]
WHO = "command line"
console = Console(highlight=False, soft_wrap=True)


@contextmanager
def opened(where: str | None) -> Iterator[Store]:
    from server.store.opening import open_existing, store_here

    store = open_existing(where or store_here())
    try:
        yield store
    finally:
        store.close()


@app.command("list")
def list_runs(
    store: Where = None,
    active: Annotated[bool, typer.Option("--active", help="Only active runs.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(help="key=value: only runs with this group, method, strategy, state, seed or setting."),
    ] = None,
    sort: Annotated[
        str, typer.Option(help="started, group, method, seed, score, loss, up, seconds, ...; -score: largest first.")
    ] = "-started",
    shown: Annotated[str | None, typer.Option("--columns", help="Columns to show, comma-separated.")] = None,
    json_output: Json = False,
) -> None:
    """List runs, newest first or as sorted."""
    from server.commands.columns import listed
    from server.store.choosing import chosen
    from server.store.reading import read_runs

    choice = chosen(where or [], sort)
    with opened(store) as found, found.reading() as connection:
        runs = read_runs(connection, active_only=active, choice=choice)
    if json_output:
        typer.echo(json.dumps([asdict(run) for run in runs], indent=2))
        return
    headings, rows, leave_out = listed(runs, None if shown is None else shown.split(","))
    say(headings, rows, leave_out=leave_out)
    if not runs:
        console.print("No such run." if where else "No runs yet. Start one with: fedlora simulate")


@app.command()
def show(name: Name, store: Where = None, json_output: Json = False) -> None:
    """Show one run: its state, its sites, and why some did not train."""
    from server.store.reading import find_run, read_detail, read_failures, read_rounds, read_run_sites

    with opened(store) as found, found.reading() as connection:
        run = find_run(connection, name)
        detail, rounds = read_detail(connection, run), read_rounds(connection, run)
        sites, failures = read_run_sites(connection, run), read_failures(connection, run)
    if json_output:
        lists: dict[str, Iterable[DataclassInstance]] = {"rounds": rounds, "sites": sites, "failures": failures}
        rows = {key: [asdict(row) for row in listed] for key, listed in lists.items()}
        typer.echo(json.dumps({"run": asdict(run), "detail": asdict(detail), **rows}, indent=2))
        return
    console.print(f"[bold]{run.name}[/] {run.run}: {run.state}, {run.rounds} of {run.total_rounds} rounds")
    console.print(run.folder)
    if run.reason:
        console.print(f"[red]{run.reason}[/]")
    headings = ("site", "trained", "not trained", "MB up", "MB down", "s a round", "last")
    say(headings, [_listed_site(site) for site in sites], leave_out=("MB down", "MB up", "s a round"))
    for words, names in machines_of(sites).items():
        console.print(f"{', '.join(names)}: {words}")
    for failure in failures[:10]:
        console.print(
            f"{failure.site} {failure.outcome} ({failure.code}): {failure.count} x, last in round {failure.last_round}"
        )


def machines_of(sites: Iterable[RunSiteRow]) -> dict[str, list[str]]:
    """The number of sites by version and device, of those that reported it."""
    from fedlora.protocol.machine import Machine

    found: dict[str, list[str]] = {}
    for site in sites:
        if site.machine is not None:
            found.setdefault(Machine.model_validate(site.machine).words, []).append(site.site)
    return found


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(help="Runs, by name or id.")],
    store: Where = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove runs from the store. Their folders stay, and so do the records of what deployed sites have spent."""
    from server.store.reading import find_run
    from server.store.removing import remove_run

    with opened(store) as found:
        with found.reading() as connection:
            runs: list[RunRow] = [find_run(connection, name) for name in names]
        if not yes:
            listed = ", ".join(f"{run.name} ({run.run[:8]})" for run in runs)
            typer.confirm(f"Remove {listed} from {found.url}?", abort=True)
        with found.writing() as connection:
            for run in runs:
                remove_run(connection, run, who=WHO, at=time.time())
    for run in runs:
        console.print(f"{run.name} is removed from the store; its folder is still there: {run.folder}")


@app.command("import")
def import_folders(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that contain runs.")],
    store: Where = None,
) -> None:
    """Import runs' folders into the store; rounds that it already has are not duplicated."""
    from server.store.importing import import_run, run_folders
    from server.store.opening import open_store, store_here

    opened_store = open_store(store or store_here())
    try:
        for folder in folders:
            for one in run_folders(folder):
                name = one.resolve().name if one == folder else str(one.relative_to(folder))
                with opened_store.writing() as connection:
                    done = import_run(connection, one, name=name, who=WHO, now=time.time())
                console.print(f"{done.name}: {done.new_rounds} of {done.rounds} rounds were new")
    finally:
        opened_store.close()


@app.command()
def export(
    name: Name,
    to: Annotated[str, typer.Option(help="tensorboard or mlflow.")],
    out: Annotated[Path, typer.Option(help="Folder for the exported files.")],
    store: Where = None,
) -> None:
    """Export a run's curves to TensorBoard or MLflow; each needs its optional packages."""
    from server.store.exporting import EXPORTS

    if to not in EXPORTS:
        raise SettingsError(f"--to {to!r}: choose one of {', '.join(EXPORTS)}.")
    with opened(store) as found, found.reading() as connection:
        where = EXPORTS[to](connection, name, out)
    console.print(f"{name} is written to {where}.")


def say(headings: Sequence[str], rows: Sequence[Sequence[str]], *, leave_out: Sequence[str]) -> None:
    """Print a listing as wide as the terminal is."""
    for line, text in enumerate(listing(headings, rows, width=console.width, leave_out=leave_out)):
        console.print(text, style=None if line else "bold", markup=False)


def _listed_site(site: RunSiteRow) -> tuple[str, ...]:
    others = [f"{count} {name}" for name in ("late", "refused", "failed") if (count := getattr(site, name))]
    return (
        printable(site.site),
        f"{site.trained} of {site.asked}",
        ", ".join(others),
        f"{site.bytes_up / 1e6:.2f}",
        f"{site.bytes_down / 1e6:.2f}",
        number(site.mean_seconds, ".2f"),
        site.last_outcome + (f": {site.last_code}" if site.last_code else ""),
    )


@app.command()
def diff(
    names: Annotated[list[str], typer.Argument(help="Runs, by name or id.")],
    store: Where = None,
    json_output: Json = False,
) -> None:
    """Show the settings in which the recipes of runs differ, side by side."""
    from fedlora.differing import differences, value_words
    from server.store.reading import find_run, read_detail

    with opened(store) as found, found.reading() as connection:
        runs = [find_run(connection, name) for name in names]
        apart = differences([read_detail(connection, run).recipe for run in runs])
    if json_output:
        typer.echo(json.dumps({"runs": [run.run for run in runs], "settings": apart}, indent=2))
        return
    headings = ["setting", *(f"{printable(run.name)} {run.run[:8]}" for run in runs)]
    rows = [[printable(name), *(printable(value_words(value)) for value in values)] for name, values in apart.items()]
    say(headings, rows, leave_out=[])
    if not apart:
        console.print("They differ in no setting.")
