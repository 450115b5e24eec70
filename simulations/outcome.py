"""What came of a simulation: its figures, its verdict, and the models that clients end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.state.personal import Personal
from fedlora.adapters.export import export_adapter
from fedlora.config import Recipe
from fedlora.folder_names import folder_name
from fedlora.models.evaluation import evaluate_examples
from fedlora.privacy.spent import privacy_note, privacy_summary
from fedlora.protocol.software import versions
from fedlora.protocol.task import Evaluation
from fedlora.settings import RunError
from fedlora.tasks.registry import task_named
from fedlora.tasks.verdict import Judge
from server.coordinate import load_state
from server.made import made_in
from server.record.before import course
from server.record.checkpoint import Progress
from server.record.lines import read_records
from server.record.packing_summary import packing_summary
from server.record.summary import (
    figures,
    first_step_spent,
    largest_error,
    last_evaluation,
    noised_rounds,
    spent_in,
)
from server.trial import told
from simulations.attacks import attackers
from simulations.simulation import Simulation
from strategies.registry import build


@dataclass(frozen=True)
class Outcome:
    """One federation that has run."""

    clients: tuple[str, ...]
    progress: Progress
    by_client: Mapping[str, Evaluation]
    """The final state on every client's own test examples."""
    folder: Path


def judge_of(simulation: Simulation) -> Judge:
    """Who says what figures on the shared test set mean (`TaskKind.judge`)."""
    held_out = simulation.data.held_out
    return held_out.task.judge(held_out.items, simulation.data.labels)


def judged(simulation: Simulation, folders: Sequence[Path]) -> dict[str, Any]:
    """What the figures mean: of one federation all of it, of several what the test set is."""
    return judge_of(simulation).verdict(course(folders[0], read_records(folders[0])) if len(folders) == 1 else [])


def by_client(simulation: Simulation, names: Sequence[str], progress: Progress, folder: Path) -> dict[str, Evaluation]:
    """The final state on the test examples of every client that has any to measure on; possible here because this is a
    simulation."""
    if keeps_personal(simulation.recipe):
        *_, last = read_records(folder)
        return {one.client: one.received for one in last.clients if one.received is not None}
    load_state(simulation.loaded_model, "held-out", progress.state)
    model, clients = simulation.loaded_model.model, simulation.data.clients
    measurable = [name for name in names if clients[name].test.measurable]
    return {name: evaluate_examples(model, clients[name].test, by=simulation.placed) for name in measurable}


def keeps_personal(recipe: Recipe) -> bool:
    """Whether every client ends with a model of its own."""
    return bool(build(recipe.strategy.name, recipe.strategy.options).traits.keeps)


def export_personal(simulation: Simulation, names: Sequence[str], progress: Progress, folder: Path) -> None:
    """adapters/<client>/: the shared factors with the client's own. Possible here because this is a simulation."""
    private = simulation.recipe.privacy.enabled
    spent = spent_in(simulation.recipe, [folder])
    made = made_in(simulation.recipe, progress, folder, spent, of_packaged=True)
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
            made=made,
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
    judged_by = simulation.metric.name
    return {
        "name": recipe.name,
        **told(folders[0]),
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
        **judged(simulation, folders),
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
