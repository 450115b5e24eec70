"""`fedlora simulate` and `fedlora compare`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fedlora.config import ComputeSettings, Recipe, load
from fedlora.packaged import recipe_file
from fedlora.settings import SettingsError
from fedlora.tasks.metric import Metric
from server.record.journal import Journal
from server.record.packing_summary import packed_as
from server.record.records import Event
from server.runs.submissions import completed_rounds
from server.store.opening import store_beside, store_here
from simulations.commands.options import (
    ClientsPerGpu,
    Device,
    Dtype,
    Microbatch,
    Overrides,
    Quiet,
    TogetherOption,
    Verbose,
    compute_of,
)
from simulations.compare import (
    Row,
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
from simulations.terminal.interruption import InterruptedRunError, how_to_go_on, kill_is_ctrl_c, the_same_again
from simulations.terminal.screen import Screen

WIDE = 110
LEFT_OUT_FIRST = ("loss", "agg. error", "seeds", "s")


def simulate(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")] = "six-airlines",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results (default: runs/NAME).")] = None,
    engine: Annotated[
        str, typer.Option(help="local: in this process; ray: Flower's own simulation runtime.")
    ] = "local",
    device: Device = None,
    dtype: Dtype = None,
    microbatch: Microbatch = None,
    clients_per_gpu: ClientsPerGpu = 1,
    together: TogetherOption = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of a sentence.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run RECIPE: coordinator and clients in one process, the same code as in production.

    Results: summary.json, rounds.jsonl, config.yaml, curves.png and adapter/, a PEFT adapter folder.
    """
    talk(verbose=verbose)
    loaded = load(recipe, overrides or [])
    folder = out or Path("runs") / loaded.name
    if engine not in get_args(Engine):
        raise SettingsError(f"--engine {engine!r}: choose one of {', '.join(get_args(Engine))}.")
    if together and engine == "ray":
        raise SettingsError("--together trains the clients of one process: remove it, or --engine ray.")
    store = store_beside(folder)
    compute = compute_of(device, dtype, microbatch, clients_per_gpu, together=together)
    how = Shown(compute, engine=cast(Engine, engine), store=store, quiet=quiet)
    summary = run_on_screen(loaded, folder, how, resume=resume)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
        return
    up, down, judged_by = summary["bytes_up"] / 1e6, summary["bytes_down"] / 1e6, Metric(summary["metric"]).words
    typer.echo(
        f"{judged_by} {summary['score']:.4f}, {up:.2f} MB up, {down:.2f} MB down, {summary['seconds']:.0f} s. "
        f"{packed_as(summary)}Look at {folder}/curves.png; the PEFT adapter is {summary['adapter_dir']}."
    )
    for sentence in summary["verdict"]:
        typer.echo(sentence)
    if store is not None:
        where = "" if store == store_here() else f" --store {store}"
        typer.echo(f"In a browser, now or during a run: fedlora dashboard --open{where}")


def talk(*, verbose: bool) -> None:
    """Show fedlora's log on stderr from INFO on, or from WARNING on."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("fedlora").setLevel(logging.INFO if verbose else logging.WARNING)


def silent(text: str) -> None:
    """Used instead of `said_once` where nothing should be printed."""


def said_once() -> Callable[[str], None]:
    """Prints a message to the terminal only once: runs that are compared share their data."""
    console, said = Console(stderr=True, soft_wrap=True), set[str]()

    def say(text: str) -> None:
        if text not in said:
            said.add(text)
            console.print(text, markup=False, highlight=False)

    return say


@dataclass(frozen=True)
class Shown:
    """How a run at a terminal is carried out, and how much is said of it."""

    compute: ComputeSettings
    engine: Engine = "local"
    store: str | None = None
    quiet: bool = False

    @cached_property
    def say(self) -> Callable[[str], None]:
        """Tells a thing once, however many runs are carried out so."""
        return silent if self.quiet else said_once()


def run_on_screen(recipe: Recipe, folder: Path, how: Shown, *, resume: bool = False) -> dict[str, Any]:
    """Say what is in the data, then run with a progress bar. InterruptedRunError where a person ends it."""
    try:
        with kill_is_ctrl_c() as raise_if_asked:
            if not resume:
                Journal(folder, recipe).require_free()  # before anything is read
            simulation = prepare(recipe, compute=how.compute, say=how.say)
            done = completed_rounds(folder) if resume else 0
            federations = len(simulation.data.clients) if recipe.mode == "alone" else 1
            rounds, judged_by = recipe.rounds.count * federations, simulation.metric
            with Screen(rounds=rounds, done=done, title=recipe.name, metric=judged_by, quiet=how.quiet) as screen:

                def watch(event: Event) -> None:
                    raise_if_asked()
                    screen.watch(event)

                return run_simulation(
                    simulation, folder, watch=watch, resume=resume, engine=how.engine, store=how.store
                )
    except KeyboardInterrupt:
        raise how_to_go_on(folder, rounds=recipe.rounds.count) from None


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
        typer.Option(help="NAME:key=value,key=value: adds a row for every recipe; NAME alone changes nothing."),
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
    """Compare runs in a table, comparison.csv, comparison.md and comparison.png."""
    talk(verbose=verbose)
    folders = [Path(run) for run in runs if (Path(run) / "summary.json").exists()]
    recipes = [str(recipe_file(run)) for run in runs if not (Path(run) / "summary.json").exists()]
    numbers = whole_numbers(seeds, option="--seeds")
    planned = plan(recipes, sweep or [], numbers, overrides or [], out, variant or [])
    console = Console(stderr=True)
    found = [finished(folder) for folder in folders]
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
    typer.echo(f"Best setting of each method by the reported test set; all settings in {out}/comparison.csv.")
