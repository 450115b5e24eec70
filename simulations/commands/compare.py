"""`fedlora compare`: runs side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fedlora.packaged import recipe_file
from fedlora.settings import SettingsError
from server.store.opening import store_beside
from simulations.commands.options import (
    Device,
    Dtype,
    Microbatch,
    Overrides,
    Quiet,
    TogetherOption,
    Verbose,
    compute_of,
)
from simulations.commands.simulate import Shown, run_on_screen, talk
from simulations.comparing.finished import finished, told_apart
from simulations.comparing.planning import plan, repeated
from simulations.comparing.rows import Row, all_rows, best_rows
from simulations.comparing.running import run_missing
from simulations.comparing.tables import cells
from simulations.comparing.writing import few, write_outputs
from simulations.terminal.interruption import InterruptedRunError, the_same_again

WIDE = 110
LEFT_OUT_FIRST = ("loss", "agg. error", "seeds", "s", "test set")


def compared(rows: Sequence[Row], *, width: int) -> Table:
    """The comparison as wide as the terminal allows: what does not fit is left out, and nothing is cut."""
    judged_by = {row.metric.words for row in rows}
    names = list(dict.fromkeys(name for row in rows for name in cells(row)))
    shown = [name for name in names if width >= WIDE or name not in LEFT_OUT_FIRST or name in judged_by]
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for name in shown:
        table.add_column(name, overflow="fold", no_wrap=name not in ("method", "setting", "verdict"))
    for row in rows:
        table.add_row(*(cells(row)[name] for name in shown))
    return table


def whole_numbers(text: str, *, option: str) -> list[int]:
    """`0,1,2` as numbers; SettingsError naming the option otherwise."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"{option} {text!r}: write whole numbers separated by commas, for example {option} 0,1,2."
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
        typer.Option(help="NAME:key=value,key=value: a row for every recipe, not the plain one; NAME alone is that."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "0",
    repeat: Annotated[
        str | None, typer.Option(help="Sweep with --seeds, then also run each method's best setting with these seeds.")
    ] = None,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(help="Folder for runs, table and picture; finished runs in it are reused.")
    ] = Path("runs/comparison"),
    device: Device = None,
    dtype: Dtype = None,
    microbatch: Microbatch = None,
    together: TogetherOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs: comparison.md, .tex, .csv (a row a run), _rounds.csv and .png in --out."""
    talk(verbose=verbose)
    folders = [Path(run) for run in runs if (Path(run) / "summary.json").exists()]
    recipes = [str(recipe_file(run)) for run in runs if not (Path(run) / "summary.json").exists()]
    numbers = whole_numbers(seeds, option="--seeds")
    planned = plan(recipes, sweep or [], numbers, overrides or [], out, variant or [])
    console = Console(stderr=True)
    found = told_apart([finished(folder) for folder in folders])
    how = Shown(compute_of(device, dtype, microbatch, together=together), store=store_beside(out), quiet=quiet)
    run = partial(run_on_screen, how=how)
    announce = partial(console.rule, align="left")
    try:
        swept = run_missing(planned, run, say=announce)
        found += swept
        if repeat is not None:
            seeds_again = whole_numbers(repeat, option="--repeat")
            again = repeated(swept, recipes, seeds_again, overrides or [], out, variant or [])
            found += run_missing(again, run, say=announce)
    except InterruptedRunError:
        raise the_same_again() from None
    best, everything = best_rows(found), all_rows(found)
    write_outputs(best, everything, out)
    if as_json:
        typer.echo(json.dumps([cells(row) for row in everything], indent=2))
        return
    printed = Console()
    printed.print(compared(best, width=printed.width))
    if few(best):
        typer.echo(few(best).strip())
    if len(best) > 1:
        typer.echo(f"Methods in pairs, and their settings side by side: {out}/comparison.md.")
    typer.echo(f"Best setting of each method by the reported test set; all runs in {out}/comparison.csv.")
