"""What is known of a run when it begins: the store's row of it, before it is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.config import Recipe
from fedlora.protocol.software import versions
from fedlora.tasks.metric import Metric
from fedlora.tasks.registry import task_named
from fedlora.updates import Adapter, Factor
from server.record.checkpoint import Progress
from server.store.rows import Kind
from server.store.values import LARGEST
from server.trial import Trial, read_trial


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run when it begins."""

    run: str
    name: str
    kind: Kind
    coordinator: str
    folder: str
    strategy: str
    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    dense_bytes: int | None
    rounds_wanted: int
    metric: Metric
    """What the task's runs are compared by."""
    trial: Trial | None = None
    """What it is one of; None where its folder does not say."""

    @property
    def seed(self) -> int | None:
        """None where another version's recipe has none."""
        seed = self.recipe.get("seed")
        return seed if isinstance(seed, int) and abs(seed) <= LARGEST else None


def facts_of(recipe: Recipe, progress: Progress, folder: Path, *, name: str, kind: Kind, coordinator: str) -> RunFacts:
    """Of a run of this recipe in this folder, that begins or goes on in this process."""
    return RunFacts(
        run=progress.run,
        name=name,
        kind=kind,
        coordinator=coordinator,
        folder=str(folder.resolve()),
        strategy=recipe.strategy.name,
        recipe=recipe.model_dump(mode="json"),
        versions=versions(),
        dense_bytes=dense_bytes(progress.state.adapter),
        rounds_wanted=recipe.rounds.count,
        metric=task_named(recipe.model.task).compare_by,
        trial=read_trial(folder),
    )


def dense_bytes(adapter: Adapter) -> int:
    """One client's whole float32 factors and dense parameters, one way: what sending them as they are would cost."""
    return sum(4 * tensor.numel() for tensor in adapter.tensors([Factor.A, Factor.B, Factor.DENSE]).values())
