"""`fedlora find-lr`: which learning rate a recipe should have, by short runs on its own data."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column as Heading
from rich.table import Table

from fedlora.config import Recipe, load
from fedlora.data.examples import Examples, concatenate
from fedlora.models.evaluation import DivergedError
from fedlora.settings import SettingsError
from fedlora.tasks.metric import LOSS, Metric
from fedlora.tasks.registry import task_named
from server.record.lines import read_records
from server.replies.quorum import QuorumError
from simulations.commands.options import Device, Dtype, Microbatch, Overrides, compute_of
from simulations.commands.simulate import said_once, talk
from simulations.data.partition import ClientExamples
from simulations.find_lr import Tried, best, rates_around, rates_of, why
from simulations.run import prepare, simulate
from simulations.simulation import Simulation

MOST_STEPS, MOST_CLIENTS, MOST_TESTED = 10, 4, 200


def find_lr(
    recipe: Annotated[str, typer.Argument(help="Recipe file, or the name of a packaged recipe.")],
    rates: Annotated[
        str | None,
        typer.Option(help="Learning rates to try, separated by commas; five around the recipe's own if not given."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each rate.")] = 2,
    examples: Annotated[int, typer.Option(min=1, help="Largest number of training examples per client.")] = 200,
    overrides: Overrides = None,
    device: Device = None,
    dtype: Dtype = None,
    microbatch: Microbatch = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print rates, losses and the choice as JSON.")] = False,
) -> None:
    """Try several learning rates briefly on RECIPE's own data, and print which one to use.

    Rates are compared on the clients' own test examples; the shared test set is not used. Nothing is saved.
    """
    talk(verbose=False)
    asked = load(recipe, overrides or [])
    refuse_private(asked, recipe)
    wanted = rates_of(rates) if rates is not None else rates_around(asked.train.lr)
    simulation = prepare(asked, compute=compute_of(device, dtype, microbatch), say=said_once())
    tried = trials(small(simulation, rounds=rounds, examples=examples), wanted)
    chosen, metric = best(tried), task_named(asked.model.task).compare_by
    if as_json:
        found = [
            {"rate": one.rate, "losses": one.losses, metric.name: one.score, "verdict": one.verdict} for one in tried
        ]
        typer.echo(json.dumps({"tried": found, "lr": chosen.rate if chosen else None, "why": why(chosen, tried)}))
        return
    Console(highlight=False).print(shown(tried, chosen, metric))
    typer.echo(why(chosen, tried))
    if chosen is not None:
        typer.echo("In the recipe:\n\n" + line_for(asked, chosen.rate))


def refuse_private(recipe: Recipe, name: str) -> None:
    """Refuse private recipes: each try would use the data once more, and the chosen rate would reveal something about
    them."""
    if recipe.privacy.enabled or recipe.privacy.client_level is not None:
        raise SettingsError(
            f"{name} trains with privacy, but find-lr would use its data several times without it: "
            "the chosen rate would reveal something about them, and no ledger would count that. Choose the rate on "
            f"public data, with noise: fedlora compare {name} --set data.source=PUBLIC.csv --sweep train.lr=0.3,1,3."
        )


def trials(simulation: Simulation, rates: Sequence[float]) -> list[Tried]:
    """Every rate from the same start, on the same examples."""
    tried, console = [], Console(stderr=True)
    for number, rate in enumerate(rates, start=1):
        console.print(f"{number} of {len(rates)}: train.lr={rate:g} ...", highlight=False)
        tried.append(trial(simulation, rate))
    return tried


def small(simulation: Simulation, *, rounds: int, examples: int) -> Simulation:
    """The same with fewer examples, clients and steps, at one rate, tested on what clients keep apart."""
    recipe, data = simulation.recipe, simulation.data
    tested = -(-MOST_TESTED // len(data.clients))
    few = {
        name: ClientExamples(first(client.train, examples), first(client.test, tested))
        for name, client in data.clients.items()
    }
    asked = max(MOST_CLIENTS, recipe.robust.least_updates if recipe.robust.enabled else 0)
    settings = recipe.rounds.model_copy(
        update={"count": rounds, "evaluate_every": 1, "fraction": min(recipe.rounds.fraction, asked / len(few))}
    )
    train = recipe.train.model_copy(
        update={
            "steps": min(recipe.train.steps or MOST_STEPS, MOST_STEPS), "local_epochs": None,
            "schedule": "constant", "warmup": 0.0,
        }
    )  # fmt: skip
    return replace(
        simulation,
        recipe=recipe.model_copy(update={"rounds": settings, "train": train, "mode": "federated"}),
        data=replace(data, clients=few, held_out=concatenate([client.test for client in few.values()])),
    )


def first(examples: Examples, count: int) -> Examples:
    return examples.take(range(min(count, len(examples))))


def trial(simulation: Simulation, rate: float) -> Tried:
    """The recipe with one rate; a separate head rate is scaled with it."""
    train = simulation.recipe.train
    head = None if train.head_lr is None else train.head_lr * rate / train.lr
    update = {"train": train.model_copy(update={"lr": rate, "head_lr": head})}
    one = replace(simulation, recipe=simulation.recipe.model_copy(update=update))
    held_out, metric = simulation.data.held_out, simulation.metric
    judge = held_out.task.judge(held_out.items, simulation.data.labels)
    with tempfile.TemporaryDirectory() as folder:
        try:
            simulate(one, Path(folder), watch=lambda event: None)
        except (QuorumError, DivergedError):  # no client had an update that is a number, or the sum of them is none
            return Tried(rate, judge)
        seen = [record.evaluation for record in read_records(Path(folder)) if record.evaluation is not None]
    return Tried(rate, judge, tuple(one.loss for one in seen), seen[-1].value(metric.name))


def shown(tried: Sequence[Tried], chosen: Tried | None, metric: Metric) -> Table:
    """A row for each rate."""
    scored = [] if metric.name == LOSS.name else [metric.words]
    names = [Heading(name, justify="right") for name in ("train.lr", "loss, first", "loss, last", *scored)]
    table = Table(*names, "verdict", box=SIMPLE)
    for one in tried:
        losses = [f"{loss:.3f}" for loss in (one.losses[0], one.loss)] if one.losses else ["-", "-"]
        score = [f"{one.score:.3f}" if one.losses else "-" for _ in scored]
        table.add_row(f"{one.rate:g}", *losses, *score, one.verdict + (", taken" if one is chosen else ""))
    return table


def line_for(recipe: Recipe, rate: float) -> str:
    """The setting to write into the recipe."""
    head = recipe.train.head_lr
    more = [] if head is None else [f"  head_lr: {float(f'{head * rate / recipe.train.lr:.3g}'):g}"]
    return "\n".join(["train:", f"  lr: {rate:g}", *more])
