"""summary.json: a run's results, computed from its folder. A simulation adds figures that only it knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedlora.config import Recipe
from fedlora.privacy.spent import epsilon_max, privacy_summary
from fedlora.privacy.unconfirmed import SiteSpent
from fedlora.protocol.software import versions
from fedlora.protocol.task import Evaluation
from fedlora.tasks.base import TaskKind
from fedlora.tasks.registry import task_named
from server.gradient_recipe import FIRST_STEP, gradient_recipe
from server.record.checkpoint import Progress
from server.record.journal import NOISED
from server.record.lines import read_records
from server.record.packing_summary import packing_summary
from server.record.records import RoundRecord
from server.record.sent import SentTasks
from server.trial import told


def summary_of(recipe: Recipe, progress: Progress, folder: Path) -> dict[str, Any]:
    """One federation's. Quality is that of the last round that was evaluated; None where none was."""
    rounds = list(read_records(folder))
    quality = last_evaluation(rounds)
    return {
        "name": recipe.name,
        **told(folder),
        "mode": recipe.mode,
        "strategy": recipe.strategy.name,
        "rounds": progress.round,
        "clients": len({client.client for record in rounds for client in record.clients}),
        **figures([] if quality is None else [quality], task_named(recipe.model.task)),
        "bytes_up": progress.bytes_up,
        "bytes_down": progress.bytes_down,
        "aggregation_error_max": largest_error([rounds]),
        "seconds": sum(record.seconds for record in rounds),
        "seed": recipe.seed,
        "versions": versions(),
        "adapter_dir": str(folder / "adapter"),
        "initialisation": recipe.adapter.start,
        **first_step_spent(recipe, [folder]),
        **packing_summary([rounds]),
        **privacy_summary(recipe, spent_in(recipe, [folder]), rounds=noised_rounds(folder, progress)),
    }


def figures(final: Sequence[Evaluation], task: TaskKind) -> dict[str, Any]:
    """The loss and the task's metrics by name, means over `final` (None where it is empty); and which of them runs are
    ranked by: `metric`, `larger_is_better`, and its value, `score`."""
    names = ("loss", *(metric.name for metric in task.metrics))
    means = {name: fmean(one.value(name) for one in final) if final else None for name in names}
    judged_by = task.compare_by
    return {
        **means, "metric": judged_by.name, "larger_is_better": judged_by.larger_is_better,
        "score": means[judged_by.name],
    }  # fmt: skip


def last_evaluation(rounds: Iterable[RoundRecord]) -> Evaluation | None:
    """Of the last round that was evaluated; None where none was."""
    evaluated = [record.evaluation for record in rounds if record.evaluation is not None]
    return evaluated[-1] if evaluated else None


def largest_error(rounds: Iterable[Iterable[RoundRecord]]) -> float | None:
    """The largest aggregation error of all rounds of all federations; None where none was measured."""
    errors = [record.aggregation_error for records in rounds for record in records]
    return max((error for error in errors if error is not None), default=None)


def noised_rounds(folder: Path, progress: Progress) -> int:
    """Rounds that client-level privacy is charged for: those that were done again as often as they were done."""
    found = folder / NOISED
    return max(progress.round, found.stat().st_size if found.exists() else 0)


def spent_in(recipe: Recipe, folders: Iterable[Path]) -> dict[str, SiteSpent]:
    """What a run may have cost every site, of all federations; nothing without privacy."""
    if not recipe.privacy.enabled:
        return {}
    return {name: spent for folder in folders for name, spent in SentTasks(folder).spent(recipe).items()}


def first_step_spent(recipe: Recipe, folders: Iterable[Path]) -> dict[str, Any]:
    """What a first step from the clients' gradients may have cost them besides the run, and both together.

    Together is the ledger's own figure (everything that the site's data have ever spent) where receipts of one ledger
    cover all that was sent; otherwise the sum of both, at the sum of both δ.
    """
    asked = [folder for folder in folders if (folder / FIRST_STEP).exists()]
    if not asked or not recipe.privacy.enabled:
        return {}
    first = spent_in(gradient_recipe(recipe, width=1), [folder / FIRST_STEP for folder in asked])
    run, delta = spent_in(recipe, asked), recipe.privacy.delta
    sites = [[spent[name] for spent in (first, run) if name in spent] for name in first.keys() | run.keys()]
    waiting = any(map(_is_unsure, sites))
    return {
        "first_step_epsilon_max": epsilon_max(first),
        "epsilon_max_with_first_step": max((_together(both) for both in sites), default=0.0),
        "delta_with_first_step": 2 * delta if waiting else delta,
    }


def _together(both: Sequence[SiteSpent]) -> float:
    lifetime = max((site.newest.epsilon_lifetime for site in both if site.newest), default=0.0)
    return max(lifetime, sum(site.epsilon for site in both)) if _is_unsure(both) else lifetime


def _is_unsure(both: Sequence[SiteSpent]) -> bool:
    """Whether no ledger says what both have cost: tasks without a receipt, or several ledgers."""
    return any(site.unconfirmed for site in both) or len({name for site in both for name in site.ledgers}) > 1
