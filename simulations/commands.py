"""`fedlora simulate` and `fedlora compare`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from fedlora.config import Recipe, load
from fedlora.settings import SettingsError
from server.packing_summary import packed_as
from server.store.opening import store_beside, store_here
from simulations.compare import (
    COLUMNS,
    all_rows,
    best_rows,
    cells,
    finished,
    plan,
    repeated,
    run_missing,
    write_outputs,
)
from simulations.run import Engine, prepare
from simulations.run import simulate as run_simulation
from simulations.screen import Screen

RECIPES = Path(__file__).parent / "recipes"
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value; may be repeated. `fedlora config show` lists the keys.")
]


def recipe_path(name: str) -> Path:
    """A recipe file, or the name of a packaged one; SettingsError with the packaged names otherwise."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = RECIPES / f"{name}.yaml"
    if packaged.exists():
        return packaged
    known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    raise SettingsError(f"no recipe {name!r}: give a file, or one of the packaged recipes: {known}.")


def simulate(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")] = "six-airlines",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: runs/NAME).")] = None,
    engine: Annotated[
        str, typer.Option(help="local: in this process; ray: Flower's own simulation runtime.")
    ] = "local",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of a sentence.")] = False,
) -> None:
    """Run RECIPE: coordinator and clients in one process, the same code as in production.

    Results: summary.json, rounds.jsonl, config.yaml, curves.png and adapter/, a PEFT adapter folder.
    """
    loaded = load(recipe_path(recipe), overrides or [])
    folder = out or Path("runs") / loaded.name
    if engine not in get_args(Engine):
        raise SettingsError(f"--engine {engine!r}: choose one of {', '.join(get_args(Engine))}.")
    store = store_beside(folder)
    summary = run_on_screen(loaded, folder, resume=resume, engine=cast(Engine, engine), store=store)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    up, down = summary["bytes_up"] / 1e6, summary["bytes_down"] / 1e6
    typer.echo(
        f"accuracy {summary['accuracy']:.4f}, {up:.2f} MB up, {down:.2f} MB down, {summary['seconds']:.0f} s. "
        f"{packed_as(summary)}Look at {folder}/curves.png; the PEFT adapter is {summary['adapter_dir']}."
    )
    if store is not None:
        where = "" if store == store_here() else f" --store {store}"
        typer.echo(f"In a browser, now or while a run goes on: fedlora dashboard --open{where}")


def said_once() -> Callable[[str], None]:
    """Prints to the terminal what it was not told before: runs that are compared share their data."""
    console, said = Console(stderr=True, soft_wrap=True), set[str]()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            console.print(text, markup=False, highlight=False)

    return say


def run_on_screen(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    engine: Engine = "local",
    store: str | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Say what is in the data, then run with a progress bar."""
    simulation = prepare(recipe, say=say or said_once())
    with Screen(rounds=recipe.rounds.count, title=recipe.name) as screen:
        return run_simulation(simulation, folder, watch=screen.watch, resume=resume, engine=engine, store=store)


def whole_numbers(text: str, *, option: str) -> list[int]:
    """`0,1,2` as numbers; SettingsError naming the option otherwise."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"{option} {text!r}: write whole numbers with commas, for example {option} 0,1,2."
        ) from None


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Recipes (files or packaged names) to run, or folders of finished runs.")
    ],
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="key=v1,v2 for every recipe, or NAME:key=v1,v2 for one; the best is reported per method."),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="NAME:key=value,key=value: a row of its own for every recipe; NAME alone changes nothing."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0",
    repeat: Annotated[
        str | None, typer.Option(help="Sweep on --seeds, then run each method's best setting with these seeds too.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(help="Folder for runs, table and picture; what is finished there is kept.")
    ] = Path("runs/comparison"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Put runs side by side: a table, comparison.csv, comparison.md and comparison.png."""
    folders = [Path(run) for run in runs if (Path(run) / "summary.json").exists()]
    recipes = [str(recipe_path(run)) for run in runs if not (Path(run) / "summary.json").exists()]
    numbers = whole_numbers(seeds, option="--seeds")
    planned = plan(recipes, sweep or [], numbers, overrides or [], out, variant or [])
    console = Console(stderr=True)
    found = [finished(folder) for folder in folders]
    run = partial(run_on_screen, store=store_beside(out), say=said_once())
    swept = run_missing(planned, run, say=lambda text: console.rule(text, align="left"))
    found += swept
    if repeat is not None:
        again = repeated(swept, recipes, whole_numbers(repeat, option="--repeat"), overrides or [], out, variant or [])
        found += run_missing(again, run, say=lambda text: console.rule(text, align="left"))
    best, everything = best_rows(found), all_rows(found)
    write_outputs(best, everything, out)
    if as_json:
        typer.echo(json.dumps([dict(zip(COLUMNS, cells(row), strict=True)) for row in everything], indent=2))
        return
    table = Table(*COLUMNS)
    for row in best:
        table.add_row(*cells(row))
    Console().print(table)
    typer.echo(f"Best setting of each method by the reported test set; all settings in {out}/comparison.csv.")
