"""A run's folder into the store: for folders from before there was one, from another machine, or after it was lost."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from sqlalchemy import Connection, select

from fedlora.config import ModelSettings, Recipe
from fedlora.settings import SettingsError, parse
from fedlora.tasks.registry import task_named
from server.gradient_recipe import FIRST_STEP
from server.record.lines import read_records
from server.record.sent import SentTasks, Spent
from server.store.audit import append_event
from server.store.facts import RunFacts
from server.store.figures import metric_of
from server.store.keys import RunKey
from server.store.spent import write_spent
from server.store.tables import runs
from server.store.writing import begin_run, set_run, write_round
from server.trial import read_trial

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Imported:
    """What came of one folder."""

    folder: Path
    name: str
    new_rounds: int
    rounds: int


def run_folders(folder: Path) -> list[Path]:
    """The folder itself, or every run's folder under it; what a run asked before its first round is no run.

    SettingsError if there is none.
    """
    found = sorted(path.parent for path in folder.rglob(CHECKPOINT) if path.parent.name != FIRST_STEP)
    if not found:
        raise SettingsError(f"{folder} contains no run (no {CHECKPOINT} in it or its subfolders); give a run's folder.")
    return found


def import_run(connection: Connection, folder: Path, *, name: str, who: str, now: float) -> Imported:
    """Add what the store has not. A run that the store knows keeps its state, and its rounds are not doubled.

    When a round was finished is not in the folder: it is put at the end of the rounds.jsonl that it is in, less the
    rounds after it.
    """
    facts, rounds = _facts(folder, name)
    known = connection.execute(select(runs).where(runs.c.run == facts.run)).one_or_none()
    records = list(read_records(folder))[:rounds]
    ended_at = (folder / "rounds.jsonl").stat().st_mtime if records else now
    begun_at = ended_at - sum(record.seconds for record in records)
    if known is None:
        key = begin_run(connection, facts, at=begun_at)
        whole = rounds >= facts.rounds_wanted
        set_run(connection, key, state="finished" if whole else "stopped", ended_at=ended_at)
    else:
        key = RunKey(known.id, known.run, known.kind, known.dense_bytes or 0, metric_of(known))
    at, done = begun_at, known.rounds if known is not None else 0
    spent = _spent(folder, facts.recipe)
    for record in records:
        at += record.seconds
        if record.round > done:
            write_round(connection, key, record, at=at, spent=spent(record.round))
    write_spent(connection, key, spent(None))
    new = max(0, len(records) - done)
    if new or known is None:
        append_event(connection, "run-imported", who=who, at=now, run=key.run, name=facts.name, rounds=new)
    return Imported(folder, facts.name, new, len(records))


def _spent(folder: Path, values: Mapping[str, Any]) -> Spent:
    """What the run may have cost every site; by receipts alone where another version's recipe does not tell."""
    try:
        recipe = parse(Recipe, values)
    except SettingsError:
        return lambda after: {}
    if not recipe.privacy.enabled:
        return lambda after: {}
    sent = SentTasks(folder)
    return lambda after: sent.spent(recipe, after_round=after)


def _facts(folder: Path, name: str) -> tuple[RunFacts, int]:
    """From the checkpoint, without its tensors."""
    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads(file.metadata()["fedlora"])
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  # not a dict
        recipe = about["recipe"]
        deployed = (folder / "submission.json").exists()
        facts = RunFacts(
            run=about["run"],
            name=name,
            kind="deployment" if deployed else "simulation",
            coordinator="" if deployed else "local",
            folder=str(folder.resolve()),
            strategy=recipe["strategy"]["name"],
            recipe=recipe,
            versions=_versions(folder),
            dense_bytes=sum(4 * math.prod(shape) for key, shape in shapes.items() if _is_whole_factor(key)),
            rounds_wanted=recipe["rounds"]["count"],
            metric=task_named(recipe["model"].get("task", ModelSettings.model_fields["task"].default)).compare_by,
            trial=read_trial(folder),
        )
        return facts, int(about["round"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}); nothing was imported from {folder}."
        ) from None


def _is_whole_factor(key: str) -> bool:
    return key.startswith("adapter/") and (key.startswith("adapter/head/") or key.endswith((".A", ".B")))


def _versions(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(version) for name, version in found.items()}
