"""The runs of a comparison, one after the other; what is finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from fedlora.config import Recipe, load
from server.trial import Trial
from simulations.comparing.finished import Run, finished, is_finished
from simulations.comparing.planning import Planned


class Simulate(Protocol):
    """Runs a recipe to the end, from its checkpoint where `resume` says so."""

    def __call__(self, recipe: Recipe, folder: Path, *, trial: Trial, name: str, resume: bool) -> object: ...


def run_missing(planned: Sequence[Planned], simulate: Simulate, *, say: Callable[[str], None]) -> list[Run]:
    """Run what is not finished yet: a finished folder has a complete summary.json, an interrupted one a checkpoint."""
    runs = []
    for number, item in enumerate(planned, start=1):
        if not is_finished(item.folder):
            say(" ".join([f"{number} of {len(planned)}:", item.method, item.settings, f"seed {item.seed}"]))
            begun = (item.folder / "checkpoint.safetensors").exists()
            recipe = load(item.recipe, item.overrides)
            simulate(recipe, item.folder, trial=item.trial, name=item.name, resume=begun)
        runs.append(finished(item.folder, method=item.method, settings=item.settings))
    return runs
