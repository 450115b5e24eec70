"""Finished runs, as their folders tell of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.differing import OF_A_RUN, flat, own, words
from fedlora.settings import SettingsError, read_mapping
from fedlora.tasks.guessing import ACCURACY
from fedlora.tasks.metric import Metric
from server.trial import trial_in


@dataclass(frozen=True)
class Run:
    """One finished run: which method, with which swept settings and seed, and where its files are."""

    method: str
    settings: str
    seed: int
    folder: Path
    summary: Mapping[str, Any]

    @property
    def recipe(self) -> dict[str, Any]:
        """Its settings by dotted names, but for name and seed; nothing where its folder holds no recipe."""
        path = self.folder / "config.yaml"
        values = read_mapping(path, f"the recipe {path}") if path.exists() else {}
        return {name: value for name, value in flat(values) if name not in OF_A_RUN}

    @property
    def changed(self) -> Mapping[str, Any]:
        """What was changed of its recipe's file; nothing where nobody said."""
        trial = trial_in(self.summary)
        return {} if trial is None else trial.changed

    @property
    def metric(self) -> Metric:
        """The metric by which it is compared; older summaries say none: ACCURACY."""
        named: str | None = self.summary.get("metric")
        return ACCURACY if named is None else Metric(named, self.summary["larger_is_better"])

    @property
    def score(self) -> float | None:
        """The metric's value; None where it was never evaluated."""
        value: float | None = self.summary["score" if "score" in self.summary else self.metric.name]
        return value


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds a summary, and of a run that was not stopped on the way."""
    try:
        finished(folder)
    except SettingsError:
        return False
    return True


def told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of one method whose recipes differ are methods of their own, called after what they differ in."""
    by_method: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_method[run.method].append(run)
    names = {
        run.folder: f"{run.method} {words(apart)}".strip()
        for alike in by_method.values()
        for run, apart in zip(alike, own([run.recipe for run in alike]), strict=True)
    }
    return [replace(run, method=names[run.folder]) for run in runs]


def finished(folder: Path, *, method: str | None = None, settings: str = "") -> Run:
    """A run's folder as a Run; SettingsError when it is not one."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except OSError:
        raise SettingsError(f"{folder} contains no finished run (no summary.json); run it, or --resume it.") from None
    if summary.get("state", "finished") != "finished":
        raise SettingsError(f"{folder} was stopped after round {summary['rounds']}; --resume it.")
    trial = trial_in(summary)
    named = None if trial is None else trial.method
    return Run(method or named or str(summary["name"]), settings, int(summary["seed"]), folder, summary)
