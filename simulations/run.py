"""One recipe as a simulation: partition, one resident base model, a grid, the coordinator; then the result's files."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client.site import Site
from fedlora.adapters.shape import require_ranks
from fedlora.config import Recipe, TrainSettings
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.config.former import former_remarks, recipe_text
from fedlora.data.examples import concatenate
from fedlora.data.rows import File
from fedlora.files import write_atomically
from fedlora.folder_names import folder_name
from fedlora.models.base import usable_device
from fedlora.models.loaded_model import loaded_model
from fedlora.plugins.gate import open_to
from fedlora.protocol.versions import recorded
from fedlora.tasks.registry import task_named
from server.answers import answered, questions, sentence
from server.coordinate import Coordination, coordinate
from server.record import checkpoint
from server.record.checkpoint import Progress
from server.record.journal import Journal
from server.record.records import EventCallback
from server.record.summary import summary_of
from server.run_identity import MAY_MOVE
from server.trial import Trial
from simulations.attacks import app_of, attackers, corrupted
from simulations.by_example import write_each
from simulations.data.contradictions import refuse_contradictions
from simulations.data.partition import ClientExamples, federation
from simulations.data.private_door import require_private_training
from simulations.data.summary import lines
from simulations.local_grid import FIRST_NODE, Faults, LocalGrid, run_apps
from simulations.on_ray import run_on_ray
from simulations.outcome import Outcome, by_client, export_personal, judge_of, judged, keeps_personal, summarise
from simulations.simulation import Simulation, on_held_out
from simulations.sites import site_of
from simulations.terminal.pictures import draw_curves
from simulations.together import several_of
from strategies.compatibility import ANYWHERE, RAY, case_of, require_compatible, require_sensible

if TYPE_CHECKING:
    from server.store.recorder import Recorder

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Execution:
    """How a run is carried out."""

    watch: EventCallback
    resume: bool = False
    engine: Engine = "local"
    faults: Faults | None = None
    """Injected into the local grid."""
    trial: Trial | None = None
    """What the run is one of."""


def prepare(
    recipe: Recipe,
    *,
    compute: ComputeSettings = OWN,
    say: Callable[[str], None] = log.info,
    files: Sequence[File] | None = None,
) -> Simulation:
    """Load data and model, or say what is wrong with the recipe, before anything is written.

    `say` hears what is in the data before the model is loaded. `files`: tables in memory, a client each.
    """
    open_to("any")  # this process is a person's own, and so are its data
    require_sensible(case_of(recipe))
    usable_device(compute.placed(recipe).model.device)
    for remark in former_remarks(recipe):
        say(f"note: {remark}")
    data = federation(recipe.data, model=recipe.model, seed=recipe.seed, files=files)
    tested, metric = len(data.held_out), task_named(recipe.model.task).compare_by
    said = lines(data.found, data.sizes, held_out=tested, batch_size=recipe.train.batch_size, metric=metric)
    say("\n".join(said))
    refuse_contradictions(recipe, data.clients)
    if recipe.mode == "pooled":
        whole = ClientExamples(
            concatenate([client.train for client in data.clients.values()]),
            concatenate([client.test for client in data.clients.values()]),
        )
        recipe = recipe.model_copy(update={"train": pooled(recipe.train, clients=len(data.clients))})
        data = replace(data, clients={"pooled": whole})
    placed = compute.placed(recipe)
    home = loaded_model(placed.model, recipe.adapter, data.labels)
    require_ranks(home.template, recipe.adapter)
    require_private_training(placed, home)
    return Simulation(recipe, data, home, compute)


def pooled(train: TrainSettings, *, clients: int) -> TrainSettings:
    """As many steps as the clients of a federation take together: of epochs over everybody's rows, the same."""
    return train if train.steps is None else train.model_copy(update={"steps": train.steps * clients})


def simulate(
    simulation: Simulation,
    out: Path,
    *,
    watch: EventCallback,
    resume: bool = False,
    engine: Engine = "local",
    faults: Faults | None = None,
    store: str | None = None,
    trial: Trial | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Run to the end; write summary.json, rounds.jsonl, config.yaml, curves.png and adapter/ to `out`.

    In mode `alone` every client is a federation of its own, in a folder of its own; the summary has their means.
    `faults` are injected into the local grid. `store`: URL or file of a store that the run is written to, under `name`,
    or its folder's. `trial`: what it is one of.
    """
    started, placed, home = time.monotonic(), simulation.placed, simulation.loaded_model
    asked = questions(simulation.data.held_out_rows, placed=placed, loaded_model=home)
    outcomes = federations(simulation, out, how=Execution(watch, resume, engine, faults, trial), store=store, name=name)
    first = outcomes[0]  # the only one, where anything is asked
    answers = answered(asked, first.progress.state, placed=placed, loaded_model=home, folder=first.folder)
    summary = summarise(simulation, outcomes, out, seconds=time.monotonic() - started) | answers
    summary["verdict"] += [sentence(found) for found in answers.values()]
    if trial is not None and trial.group is not None and not keeps_personal(simulation.recipe):
        write_each(out, simulation, [outcome.progress.state for outcome in outcomes])
    write_atomically(out / "config.yaml", recipe_text(simulation.recipe).encode())
    for outcome in outcomes:
        title = f"{simulation.recipe.name}: {', '.join(outcome.clients)}"
        draw_curves(outcome.folder, simulation.metric, title=title)
    write_atomically(out / "summary.json", json.dumps(summary, indent=2).encode())
    return summary


def federations(
    simulation: Simulation, out: Path, *, how: Execution, store: str | None, name: str | None = None
) -> list[Outcome]:
    """One of all clients, or in mode `alone` one of each, one after the other."""
    called = name or out.name
    names = tuple(simulation.data.clients)
    alone = simulation.recipe.mode == "alone"
    groups = {out / folder_name(name): (name,) for name in names} if alone else {out: names}
    outcomes = []
    for folder, clients in groups.items():
        with recorder_of(store, f"{called}/{folder.name}" if alone else called) as recorder:
            try:
                outcome = federate(simulation, clients, folder, how=how, recorder=recorder)
            except KeyboardInterrupt:
                if not alone:
                    keep_partial(simulation, folder)
                raise
            outcomes.append(outcome)
    return outcomes


def federate(
    simulation: Simulation,
    names: Sequence[str],
    folder: Path,
    *,
    how: Execution,
    recorder: Recorder | None = None,
) -> Outcome:
    """One federation of the named clients through Flower's own ServerApp and ClientApp."""
    recipe, on_ray = simulation.recipe, how.engine == "ray"
    needs = Coordination(
        loaded_model=simulation.loaded_model,
        folder=folder,
        labels=simulation.data.labels,
        evaluate=lambda state: on_held_out(simulation, state),
        evaluates_before=judge_of(simulation).needs_before,
        watch=how.watch,
        site_of=None if on_ray else lambda node: names[node - FIRST_NODE],
        data_digests=simulation.data.digests(names),
        recorder=recorder,
        compute=simulation.compute,
        trial=how.trial,
    )
    finished: list[Progress] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        finished.append(coordinate(grid, recipe, needs, resume=how.resume))

    require_compatible(case_of(recipe, RAY if on_ray else ANYWHERE))
    if on_ray:
        run_on_ray(server, recipe, names, folder, simulation.compute)
    else:
        hostile = attackers(recipe, names, simulation.loaded_model.template)

        @cache
        def site(index: int) -> Site:  # made when it is first asked
            honest = site_of(simulation.data, names[index], folder, simulation.compute)
            return corrupted(honest, hostile, classes=len(simulation.data.labels))

        find = lambda context: site(int(context.node_config["partition-id"]))  # noqa: E731
        client, several = app_of(find, hostile), several_of(find, simulation.compute, hostile)
        run_apps(server, LocalGrid(client, nodes=len(names), run_config={}, faults=how.faults, several=several), {})
    if not finished:
        raise RuntimeError("Flower's runtime ended without a result; see its log above.")
    progress = finished[0]
    if keeps_personal(recipe):
        export_personal(simulation, names, progress, folder)
    return Outcome(tuple(names), progress, by_client(simulation, names, progress, folder), folder)


def keep_partial(simulation: Simulation, folder: Path) -> None:
    """Summary and picture of a run that was stopped, by its last whole round; its adapter is there already."""
    kept = folder / "checkpoint.safetensors"
    if not kept.exists():
        return
    progress = checkpoint.read(kept, recipe=recorded(simulation.recipe), may_differ=MAY_MOVE)
    Journal(folder, simulation.recipe).keep_first(progress.round)
    if progress.round == 0:
        return
    summary = {**summary_of(simulation.recipe, progress, folder), **judged(simulation, [folder])}
    write_atomically(folder / "summary.json", json.dumps({**summary, "state": "stopped"}, indent=2).encode())
    title = f"{simulation.recipe.name}, stopped after round {progress.round}"
    draw_curves(folder, simulation.metric, title=title)


@contextmanager
def recorder_of(store: str | None, name: str) -> Iterator[Recorder | None]:
    """The recorder of one federation in a store; None without a store. SettingsError if it cannot be opened."""
    if store is None:
        yield None
        return
    from server.store.opening import open_store
    from server.store.recorder import Recorder

    opened = open_store(store)
    try:
        yield Recorder(opened, name=name, kind="simulation")
    finally:
        opened.close()
