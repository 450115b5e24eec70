"""A run from the coordinator's side, in a simulation and in a deployment alike: begin or resume, loop, export."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flwr.serverapp import Grid

from fedlora.adapters import initial_adapter, write
from fedlora.adapters.export import export_adapter
from fedlora.adapters.shape import require_ranks
from fedlora.config import Recipe
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.config.model import LoadDtype
from fedlora.models.loaded_model import LoadedModel
from fedlora.privacy.spent import privacy_note
from fedlora.privacy.unconfirmed import SiteSpent
from fedlora.updates import Adapter
from server.gradient_recipe import FIRST_STEP, gradient_recipe
from server.initial.client_gradients import from_clients, width_of
from server.initial.first_step import first_step
from server.made import made_in
from server.record.before import write_before
from server.record.checkpoint import Progress
from server.record.journal import Journal
from server.record.records import Event, EventCallback, RoundFinished
from server.replies.intake import SiteOf, Verify
from server.requests.declared import Declared, planned_for
from server.requests.outgoing import RunConstants
from server.requests.planner import planned, shape_of
from server.rounds import Evaluate, Rounds, RunContext
from server.run_identity import MadeOf
from server.trial import Trial, write_trial
from strategies.base import State, Strategy
from strategies.compatibility import Place, case_of, require_compatible
from strategies.versions import total

if TYPE_CHECKING:
    from server.store.recorder import Recorder  # a database's packages, which a run without a store does without


@dataclass(frozen=True)
class Coordination:
    """What a coordinator needs besides the recipe."""

    loaded_model: LoadedModel
    folder: Path
    labels: tuple[str, ...]
    evaluate: Evaluate | None = None
    evaluates_before: bool = False
    """Whether the first state is evaluated too (`fedlora.tasks.verdict.Judge.needs_before`)."""
    watch: EventCallback = lambda event: None
    coordinator: str = "local"
    site_of: SiteOf | None = None
    verify: Verify | None = None
    declared: Declared = field(default_factory=dict)
    """What sites have said that they can carry."""
    runs: Path | None = None
    """The folder of all runs with these sites: no ledger may go back between two of them."""
    data_digests: Mapping[str, str] = field(default_factory=dict)
    """Of everybody's examples, where the coordinator is a simulation's and has them."""
    fingerprints: Mapping[LoadDtype, str] = field(default_factory=dict)
    """Of the base in the other forms in which sites may hold it."""
    compute: ComputeSettings = OWN
    """How the coordinator's own machine computes; the model is loaded for it."""
    recorder: Recorder | None = None
    """Writes the run to a store, and obeys what people ask of it there."""
    trial: Trial | None = None
    """What the run is one of; written down where it begins."""


def coordinate(grid: Grid, recipe: Recipe, needs: Coordination, *, resume: bool) -> Progress:
    """Run the recipe's rounds on the grid and export the adapter. Everything that can be refused is refused first."""
    place = Place(names_clients=needs.site_of is not None, evaluates=needs.evaluate is not None)
    case = case_of(recipe, place)
    require_compatible(case)
    strategy = case.strategy
    journal = Journal(needs.folder, recipe, runs=needs.runs)
    progress = journal.resume(made_of(needs)) if resume else begin(grid, journal, recipe, strategy, needs)
    if needs.evaluate is not None and needs.evaluates_before and progress.round == 0:
        write_before(needs.folder, needs.evaluate(progress.state))
    shape = shape_of(needs.loaded_model.model, needs.loaded_model.template, recipe)
    ranks = planned(planned_for(recipe, needs.declared, shape), shape, needs.site_of)
    brief = replace(constants(needs), ranks=ranks)
    context, running = run_context(journal, needs), list[Rounds]()
    if recipe.rounds.export_every is not None:
        context = replace(context, watch=exporting(running, recipe, needs, journal, watch=context.watch))
    rounds = Rounds(recipe, brief, strategy, progress, context)
    running.append(rounds)
    with recorded(rounds, recipe, needs, journal):
        try:
            rounds.start(grid)
        finally:  # also of a run that was stopped or failed: what it had learned by its last whole round
            if rounds.progress.round:
                export(needs.folder / "adapter", rounds.progress, recipe, needs, spent=journal.spent())
    return rounds.progress


def constants(needs: Coordination) -> RunConstants:
    """What is the same in every task of the run."""
    others = needs.fingerprints
    return RunConstants(needs.loaded_model.base.fingerprint, needs.labels, others, needs.coordinator)


def made_of(needs: Coordination) -> MadeOf:
    """What a run is bound to."""
    return MadeOf(needs.labels, needs.loaded_model.base.fingerprint, needs.data_digests)


def run_context(journal: Journal, needs: Coordination) -> RunContext:
    """What the loop touches; a recorder hears of everything first, and its orders are obeyed."""
    recorder = needs.recorder
    if recorder is None:
        return RunContext(journal, needs.evaluate, needs.watch, needs.site_of, needs.verify)

    def watch(event: Event) -> None:
        recorder.watch(event)
        needs.watch(event)

    return RunContext(journal, needs.evaluate, watch, needs.site_of, needs.verify, recorder)


def recorded(rounds: Rounds, recipe: Recipe, needs: Coordination, journal: Journal) -> AbstractContextManager[None]:
    """Around the loop, where there is a recorder: it notes the start of the run and how it ended."""
    if needs.recorder is None:
        return nullcontext()
    return needs.recorder.keeping(
        recipe,
        rounds.progress,
        needs.folder,
        export=lambda folder: export(folder, rounds.progress, recipe, needs, spent=journal.spent()),
        spent=lambda after: journal.spent(after_round=after),
    )


def begin(grid: Grid, journal: Journal, recipe: Recipe, strategy: Strategy, needs: Coordination) -> Progress:
    """Round 0: the coordinator's initial adapter, stored before anything else is sent."""
    loaded_model = needs.loaded_model
    require_ranks(loaded_model.template, recipe.adapter)
    journal.begin(made_of(needs))
    if needs.trial is not None:
        write_trial(needs.folder, needs.trial)
    write(loaded_model.model, loaded_model.template)  # a run before this one may have left other ranks
    adapter = initial_adapter(loaded_model.model, recipe.adapter, seed=recipe.seed)
    if recipe.adapter.init == "gradient":
        adapter = first_step(loaded_model, adapter, needs.compute.placed(recipe), needs.labels)
    progress = Progress(run=uuid.uuid4().hex, round=0, state=strategy.init(adapter))
    if recipe.adapter.init == "client-gradients":
        asked = gradient_recipe(recipe, width_of(adapter))
        first = Journal(needs.folder / FIRST_STEP, asked, runs=needs.runs)
        context = RunContext(first, watch=needs.watch, site_of=needs.site_of, verify=needs.verify)
        adapter, cost = from_clients(grid, adapter, recipe, asked=asked, brief=constants(needs), context=context)
        progress = replace(progress, state=strategy.init(adapter), bytes_up=cost.bytes_up, bytes_down=cost.bytes_down)
    journal.keep(None, progress)
    return progress


def export(
    folder: Path, progress: Progress, recipe: Recipe, needs: Coordination, *, spent: Mapping[str, SiteSpent]
) -> None:
    """The PEFT adapter folder of a run as far as it is; its README says what it has cost the sites' data so far."""
    export_adapter(
        folder,
        progress.state.adapter,
        total=total(progress.state),
        base=needs.loaded_model.named,
        model=needs.loaded_model.model,
        task=recipe.model.task,
        labels=needs.labels,
        max_tokens=recipe.model.max_tokens,
        privacy=privacy_note(recipe, spent),
        made=made_in(recipe, progress, needs.folder, spent, of_packaged=bool(needs.data_digests)),
    )


def exporting(
    running: Sequence[Rounds], recipe: Recipe, needs: Coordination, journal: Journal, *, watch: EventCallback
) -> EventCallback:
    """`watch`, and before it the folder peft_N of every round N that `rounds.export_every` names, and of the last."""
    every, last = recipe.rounds.export_every or 1, recipe.rounds.count

    def watched(event: Event) -> None:
        if isinstance(event, RoundFinished) and (event.record.round % every == 0 or event.record.round == last):
            progress, number = running[0].progress, event.record.round
            export(needs.folder / f"peft_{number}", progress, recipe, needs, spent=journal.spent())
        watch(event)

    return watched


def load_state(loaded_model: LoadedModel, run: str, state: State) -> None:
    """Make the resident model serve this state: base at its version, adapter written."""
    loaded_model.at_version(run, state.base_version, total(state))
    write(loaded_model.model, served(state))


def served(state: State) -> Adapter:
    """The adapter in the model's own precision."""
    return state.adapter.to(torch.float32)
