"""One recipe as a simulation: partition, one resident base model, a grid, the coordinator; then the result's files."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from client.state.personal import Personal
from fedlora.adapters.export import export_adapter
from fedlora.adapters.shape import require_ranks
from fedlora.config import Recipe
from fedlora.data.examples import concatenate
from fedlora.files import write_atomically
from fedlora.folder_names import folder_name
from fedlora.models.base import usable_device
from fedlora.models.evaluation import evaluate
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.spent import privacy_note, privacy_summary
from fedlora.protocol.task import Evaluation
from fedlora.protocol.versions import recorded
from fedlora.settings import RunError
from fedlora.tasks.metric import Metric
from fedlora.tasks.registry import task_named
from fedlora.versions import versions
from server.coordinate import Coordination, coordinate, load_state
from server.record import checkpoint
from server.record.checkpoint import Progress
from server.record.journal import Journal
from server.record.lines import read_records
from server.record.packing_summary import packing_summary
from server.record.records import EventCallback, RoundRecord
from server.record.summary import (
    figures,
    first_step_spent,
    largest_error,
    last_evaluation,
    noised_rounds,
    spent_in,
    summary_of,
)
from server.run_identity import MAY_MOVE
from simulations.attacks import app_of, attackers, corrupted
from simulations.data.contradictions import refuse_contradictions
from simulations.data.partition import ClientExamples, Federation, federation
from simulations.data.private_door import require_private_training
from simulations.data.summary import lines
from simulations.local_grid import FIRST_NODE, Faults, LocalGrid, run_apps
from simulations.on_ray import run_on_ray
from simulations.sites import site_of
from simulations.terminal.pictures import draw_curves
from strategies.base import State
from strategies.compatibility import ANYWHERE, RAY, case_of, require_compatible, require_sensible
from strategies.registry import build

if TYPE_CHECKING:
    from server.store.recorder import Recorder

log = logging.getLogger(__name__)

Engine = Literal["local", "ray"]


@dataclass(frozen=True)
class Simulation:
    """A recipe made ready: data in parts, base model loaded. Several runs may share them."""

    recipe: Recipe
    data: Federation
    loaded_model: LoadedModel


@dataclass(frozen=True)
class Outcome:
    """One federation that has run."""

    clients: tuple[str, ...]
    progress: Progress
    by_client: Mapping[str, Evaluation]
    """The final state on every client's own test examples."""
    folder: Path


def prepare(recipe: Recipe, *, say: Callable[[str], None] = log.info) -> Simulation:
    """Load data and model, or say what is wrong with the recipe, before anything is written.

    `say` hears what is in the data before the model is loaded.
    """
    require_sensible(case_of(recipe))
    usable_device(recipe.model.device)
    data = federation(recipe.data, model=recipe.model, seed=recipe.seed)
    tested, metric = len(data.held_out), task_named(recipe.model.task).compare_by
    said = lines(data.found, data.sizes, held_out=tested, batch_size=recipe.train.batch_size, metric=metric)
    say("\n".join(said))
    refuse_contradictions(recipe, data.clients)
    if recipe.mode == "pooled":
        whole = ClientExamples(
            concatenate([client.train for client in data.clients.values()]),
            concatenate([client.test for client in data.clients.values()]),
        )
        steps = recipe.train.steps * len(data.clients)  # as many steps as the clients of a federation take together
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": steps})})
        data = replace(data, clients={"pooled": whole})
    home = loaded_model(recipe.model, recipe.adapter, data.labels)
    require_ranks(home.template, recipe.adapter)
    require_private_training(recipe, home)
    return Simulation(recipe, data, home)


def simulate(
    simulation: Simulation,
    out: Path,
    *,
    watch: EventCallback,
    resume: bool = False,
    engine: Engine = "local",
    faults: Faults | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Run to the end; write summary.json, rounds.jsonl, config.yaml, curves.png and adapter/ to `out`.

    In mode `alone` every client is a federation of its own, in a folder of its own; the summary has their means.
    `faults` are injected into the local grid. `store`: URL or file of a store that the run is written to.
    """
    started = time.monotonic()
    names = tuple(simulation.data.clients)
    alone = simulation.recipe.mode == "alone"
    groups = {out / folder_name(name): (name,) for name in names} if alone else {out: names}
    outcomes = []
    for folder, clients in groups.items():
        name = f"{out.name}/{folder.name}" if alone else out.name
        with recorder_of(store, name) as recorder:
            try:
                outcome = federate(
                    simulation,
                    clients,
                    folder,
                    watch=watch,
                    resume=resume,
                    faults=faults,
                    engine=engine,
                    recorder=recorder,
                )
            except KeyboardInterrupt:
                if not alone:
                    keep_partial(simulation, folder)
                raise
            outcomes.append(outcome)
    summary = summarise(simulation, outcomes, out, seconds=time.monotonic() - started)
    recipe = simulation.recipe.model_dump(mode="json")
    write_atomically(out / "config.yaml", yaml_text(recipe).encode())
    for outcome in outcomes:
        title = f"{simulation.recipe.name}: {', '.join(outcome.clients)}"
        draw_curves(outcome.folder, metric_of(simulation), title=title)
    write_atomically(out / "summary.json", json.dumps(summary, indent=2).encode())
    return summary


def federate(
    simulation: Simulation,
    names: Sequence[str],
    folder: Path,
    *,
    watch: EventCallback,
    resume: bool,
    faults: Faults | None,
    engine: Engine,
    recorder: Recorder | None = None,
) -> Outcome:
    """One federation of the named clients through Flower's own ServerApp and ClientApp."""
    recipe = simulation.recipe
    needs = Coordination(
        loaded_model=simulation.loaded_model,
        folder=folder,
        labels=simulation.data.labels,
        evaluate=lambda state: on_held_out(simulation, state),
        watch=watch,
        site_of=None if engine == "ray" else lambda node: names[node - FIRST_NODE],
        data_digests=simulation.data.digests(names),
        recorder=recorder,
    )
    finished: list[Progress] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        finished.append(coordinate(grid, recipe, needs, resume=resume))

    require_compatible(case_of(recipe, RAY if engine == "ray" else ANYWHERE))
    if engine == "ray":
        run_on_ray(server, recipe, names, folder)
    else:
        hostile = attackers(recipe, names, simulation.loaded_model.template)
        honest = [site_of(simulation.data, name, folder) for name in names]
        sites = [corrupted(site, hostile, classes=len(simulation.data.labels)) for site in honest]
        client = app_of(lambda context: sites[int(context.node_config["partition-id"])], hostile)
        run_apps(server, LocalGrid(client, nodes=len(sites), run_config={}, faults=faults), {})
    if not finished:
        raise RuntimeError("Flower's runtime ended without a result; the reason is in its log above.")
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
    summary = {**summary_of(simulation.recipe, progress, folder), **judged(simulation, [list(read_records(folder))])}
    write_atomically(folder / "summary.json", json.dumps({**summary, "state": "stopped"}, indent=2).encode())
    title = f"{simulation.recipe.name}, stopped after round {progress.round}"
    draw_curves(folder, metric_of(simulation), title=title)


def metric_of(simulation: Simulation) -> Metric:
    """What the task's runs are compared by."""
    return task_named(simulation.recipe.model.task).compare_by


def judged(simulation: Simulation, rounds: Sequence[Sequence[RoundRecord]]) -> dict[str, Any]:
    """What the figures mean (`TaskKind.judge`): of one federation all of it, of several what the test set is."""
    held_out = simulation.data.held_out
    judge = held_out.task.judge(held_out.items, simulation.data.labels)
    return judge.verdict([record.evaluation for record in rounds[0]] if len(rounds) == 1 else [])


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


def on_held_out(simulation: Simulation, state: State) -> Evaluation:
    """A state on the shared test set."""
    load_state(simulation.loaded_model, "held-out", state)
    batches = simulation.data.held_out.evaluation_batches(device=simulation.recipe.model.device)
    return evaluate(simulation.loaded_model.model, batches, on=simulation.recipe.model)


def by_client(simulation: Simulation, names: Sequence[str], progress: Progress, folder: Path) -> dict[str, Evaluation]:
    """The final state on every client's own test examples; possible here because this is a simulation."""
    if keeps_personal(simulation.recipe):
        *_, last = read_records(folder)
        return {one.client: one.received for one in last.clients if one.received is not None}
    load_state(simulation.loaded_model, "held-out", progress.state)
    on = simulation.recipe.model
    tests = {name: simulation.data.clients[name].test.evaluation_batches(device=on.device) for name in names}
    return {name: evaluate(simulation.loaded_model.model, batches, on=on) for name, batches in tests.items()}


def keeps_personal(recipe: Recipe) -> bool:
    """Whether every client ends with a model of its own."""
    return bool(build(recipe.strategy.name, recipe.strategy.options).traits.keeps)


def export_personal(simulation: Simulation, names: Sequence[str], progress: Progress, folder: Path) -> None:
    """adapters/<client>/: the shared factors with the client's own. Possible here because this is a simulation."""
    private = simulation.recipe.privacy.enabled
    spent = spent_in(simulation.recipe, [folder])
    for name in names:
        home = folder / "sites" / folder_name(name)
        own = Personal(home, progress.run).merged(progress.state.adapter, private=private)
        export_adapter(
            folder / "adapters" / folder_name(name),
            own,
            total={},
            base=simulation.loaded_model.named,
            model=simulation.loaded_model.model,
            task=simulation.recipe.model.task,
            labels=simulation.data.labels,
            max_tokens=simulation.recipe.model.max_tokens,
            privacy=privacy_note(simulation.recipe, spent),
        )


def summarise(simulation: Simulation, outcomes: Sequence[Outcome], out: Path, *, seconds: float) -> dict[str, Any]:
    """The keys of summary.json; means over the federations of mode `alone`."""
    recipe = simulation.recipe
    folders = [outcome.folder for outcome in outcomes]
    rounds = [list(read_records(folder)) for folder in folders]
    last = [last_evaluation(records) for records in rounds]
    final = [quality for quality in last if quality is not None]
    if len(final) < len(last):
        raise RunError("a federation was never evaluated: raise rounds.count, or lower rounds.evaluate_every.")
    judged_by = metric_of(simulation).name
    return {
        "name": recipe.name,
        "state": "finished",
        "mode": recipe.mode,
        "strategy": recipe.strategy.name,
        "rounds": max(outcome.progress.round for outcome in outcomes),
        "clients": sum(len(outcome.clients) for outcome in outcomes),
        **figures(final, task_named(recipe.model.task)),
        f"{judged_by}_by_client": {
            name: quality.value(judged_by) for outcome in outcomes for name, quality in outcome.by_client.items()
        },
        "bytes_up": sum(outcome.progress.bytes_up for outcome in outcomes),
        "bytes_down": sum(outcome.progress.bytes_down for outcome in outcomes),
        "aggregation_error_max": largest_error(rounds),
        "seconds": seconds,
        "seed": recipe.seed,
        "versions": versions(),
        "adapter_dir": adapter_dir(recipe, out),
        "initialisation": recipe.adapter.start,
        **first_step_spent(recipe, folders),
        **judged(simulation, rounds),
        **packing_summary(rounds),
        **attack_summary(simulation),
        **privacy_summary(
            recipe,
            spent_in(recipe, folders),
            rounds=max(noised_rounds(outcome.folder, outcome.progress) for outcome in outcomes),
        ),
    }


def attack_summary(simulation: Simulation) -> dict[str, Any]:
    """Who lied and how; nothing where nobody did."""
    hostile = attackers(simulation.recipe, tuple(simulation.data.clients), simulation.loaded_model.template)
    return {} if hostile is None else {"attack": hostile.settings.kind, "attackers": sorted(hostile.names)}


def adapter_dir(recipe: Recipe, out: Path) -> str | None:
    """Where the result is: one adapter, a folder of personal ones, or, in mode `alone`, in every client's own run."""
    if recipe.mode == "alone":
        return None
    return str(out / ("adapters" if keeps_personal(recipe) else "adapter"))
