"""`fedlora simulate`: one run at a terminal."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console

from fedlora.config import ComputeSettings, Recipe, load
from fedlora.differing import changed_by
from fedlora.settings import SettingsError
from fedlora.tasks.metric import Metric
from server.record.journal import Journal
from server.record.packing_summary import packed_as
from server.record.records import Event
from server.runs.submissions import completed_rounds
from server.store.opening import store_beside, store_here
from server.trial import Trial
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
from simulations.run import Engine, prepare
from simulations.run import simulate as run_simulation
from simulations.terminal.interruption import how_to_go_on, kill_is_ctrl_c
from simulations.terminal.screen import Screen


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
    trial = Trial(None, loaded.name, changed_by(recipe, overrides or []))
    summary = run_on_screen(loaded, folder, how, trial=trial, resume=resume)
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


def run_on_screen(
    recipe: Recipe, folder: Path, how: Shown, *, trial: Trial, resume: bool = False, name: str | None = None
) -> dict[str, Any]:
    """Say what is in the data, then run with a progress bar. InterruptedRunError where a person ends it.

    `trial`: what the run is one of; `name`: in the store, its folder's when not given.
    """
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
                    simulation, folder, watch=watch, resume=resume, engine=how.engine, store=how.store, trial=trial,
                    name=name,
                )  # fmt: skip
    except KeyboardInterrupt:
        raise how_to_go_on(folder, rounds=recipe.rounds.count) from None
