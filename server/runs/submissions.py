"""Runs of a deployed coordinator: a folder each, and what is asked of it.

    runs/<name>/recipe.yaml          what was submitted
                submission.json      wanted (going on, stopped), Flower's run id, attempts
                status.json          what the ServerApp last said: running (pid), failed (why), finished
                gave-up.txt          why the coordinator gave it up
                checkpoint.safetensors, rounds.jsonl, adapter/     of the loop itself

A Flower run that dies - killed, or its quorum missed - is submitted again (`attempts.py`) and resumes from the
checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from fedlora.config import Recipe
from fedlora.config.former import without_former
from fedlora.deployment.enrolment import require_name
from fedlora.files import write_atomically
from fedlora.plain_yaml import yaml_text
from fedlora.processes.living import Process, born, is_alive
from fedlora.protocol.versions import recorded
from fedlora.settings import Settings, SettingsError, parse
from server.flower.control import Control, UnreachableError
from server.settings import ServerSettings
from server.trial import Trial, write_trial

S = TypeVar("S", bound=Settings)

AT_REST = ("finished", "stopped", "gave-up", "damaged")
"""States in which a run does nothing more until a user acts."""


class Submission(Settings):
    """A submission: the desired state of a run, and its attempts so far."""

    wanted: Literal["going-on", "stopped", "gave-up"] = "going-on"
    flower_run: str | None = None
    submitted_at: float = 0.0
    """Unix time."""
    attempts: int = 0
    fruitless: int = 0
    """Attempts in a row that did not complete a round."""
    rounds_before: int = 0
    """Rounds that were complete when this attempt began."""


class Status(Settings):
    """The ServerApp's report about itself."""

    state: Literal["running", "failed", "finished"]
    flower_run: str
    pid: int
    born: str
    """Start time of that process: another process may have got its pid."""
    why: str | None = None


def submit(settings: ServerSettings, recipe: Recipe, *, name: str, trial: Trial | None = None) -> Path:
    """Make the run's folder; the coordinator that is up starts it. SettingsError if the name is taken, or
    the recipe is for no real site."""
    from strategies.compatibility import Place, case_of, require_compatible  # with torch, which a coordinator needs not

    require_name(name, what="run")
    require_compatible(case_of(recipe, Place(engine="sites")))
    folder = settings.runs / name
    if folder.exists():
        raise SettingsError(f"there is already a run {name!r} in {settings.runs}; choose another --name.")
    folder.mkdir(parents=True)
    text = yaml_text(without_former(recorded(recipe)))
    write_atomically(folder / "recipe.yaml", text.encode())
    if trial is not None:
        write_trial(folder, trial)
    write_submission(folder, Submission())
    return folder


def read_submission(folder: Path) -> Submission:
    """OSError, or SettingsError where it is damaged."""
    return _read(Submission, folder / "submission.json")


def write_submission(folder: Path, submission: Submission) -> None:
    write_atomically(folder / "submission.json", submission.model_dump_json(indent=2).encode())


def change_submission(folder: Path, **values: object) -> Submission:
    """Change some of its fields and nothing that another process has changed meanwhile; returns the whole."""
    with (folder / "submission.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        changed = read_submission(folder).model_copy(update=values)
        write_submission(folder, changed)
    return changed


def read_status(folder: Path) -> Status | None:
    """None before the ServerApp has said anything. OSError, or SettingsError where it is damaged."""
    try:
        return _read(Status, folder / "status.json")
    except FileNotFoundError:
        return None


def write_status(folder: Path, status: Status) -> None:
    write_atomically(folder / "status.json", status.model_dump_json(indent=2).encode())


def read_reason(folder: Path) -> str | None:
    """Why the coordinator gave the run up, where it has."""
    try:
        return (folder / "gave-up.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def write_reason(folder: Path, why: str) -> None:
    write_atomically(folder / "gave-up.txt", why.encode())


def _read(model: type[S], path: Path) -> S:
    content = path.read_bytes()
    try:
        return parse(model, json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{path} is damaged, or of a later version ({why}): restore it from a backup, or move {path.parent} away."
        ) from None


def this_process(state: Literal["running", "failed", "finished"], flower_run: str, why: str | None = None) -> Status:
    return Status(state=state, flower_run=flower_run, pid=os.getpid(), born=born(os.getpid()) or "", why=why)


def completed_rounds(folder: Path) -> int:
    try:
        with (folder / "rounds.jsonl").open("rb") as file:
            return sum(1 for _ in file)
    except FileNotFoundError:
        return 0


def runs(settings: ServerSettings) -> list[Path]:
    """Every run's folder, the oldest first."""
    found = settings.runs.glob("*/submission.json") if settings.runs.is_dir() else []
    return [path.parent for path in sorted(found, key=lambda path: _changed_at(path.parent))]


def _changed_at(folder: Path) -> float:
    try:
        return folder.stat().st_ctime
    except OSError:  # it has just been removed
        return 0.0


def run_folder(settings: ServerSettings, name: str) -> Path:
    """The folder of a run that was submitted; SettingsError with those that were if there is none of this name."""
    folder = settings.runs / require_name(name, what="run")
    if not (folder / "submission.json").exists():
        known = ", ".join(path.name for path in runs(settings)) or "none yet"
        raise SettingsError(
            f"there is no run {name!r}; known runs: {known}. Submit one with: fedlora server run RECIPE"
        )
    return folder


@dataclass(frozen=True)
class Look:
    """A run's state, read from its folder."""

    state: str
    """The state in one word: finished, running, failed or died (will be tried again), waiting, stopped, gave-up,
    damaged."""

    submission: Submission
    status: Status | None
    why: str | None
    """Why it is damaged, given up, or failed."""

    @property
    def at_work(self) -> bool:
        """Whether its ServerApp is running, whatever the desired state."""
        status = self.status
        return status is not None and status.state == "running" and is_alive(Process(status.pid, status.born))


def look_at(folder: Path) -> Look:
    """Never raises: what cannot be read is `damaged`."""
    try:
        submission, status = read_submission(folder), read_status(folder)
    except (OSError, ValueError) as error:
        return Look("damaged", Submission(), None, str(error))
    why = read_reason(folder) if submission.wanted == "gave-up" else None
    look = Look("", submission, status, why or (None if status is None else status.why))
    return replace(look, state=_state(look))


def state_of(folder: Path) -> str:
    return look_at(folder).state


def _state(look: Look) -> str:
    status, submission = look.status, look.submission
    if status is not None and status.state == "finished":
        return "finished"
    if submission.wanted != "going-on":
        return submission.wanted
    if look.at_work:  # whichever attempt it is: one of which nobody took note before a kill -9 is as good
        return "running"
    if status is None or submission.flower_run is None or status.flower_run != submission.flower_run:
        return "waiting"
    return "died" if status.state == "running" else status.state


def stop(folder: Path, control: Control) -> None:
    """Stop a run for good: it is not started again (until `fedlora server resume`).

    A coordinator that is up makes sure of it, so a SuperLink that does not answer now is no failure.
    """
    _require_unfinished(folder, "stop")
    submission = change_submission(folder, wanted="stopped")
    if submission.flower_run is not None:
        try:
            control.stop(submission.flower_run)
        except UnreachableError:
            return


def resume(folder: Path) -> None:
    """Go on with a run that was stopped or given up."""
    _require_unfinished(folder, "continue")
    change_submission(folder, wanted="going-on", fruitless=0)


def _require_unfinished(folder: Path, what: str) -> None:
    if state_of(folder) == "finished":
        raise SettingsError(
            f"{folder.name} finished after {completed_rounds(folder)} rounds: there is nothing to {what}. Its "
            f"result is {folder / 'adapter'}."
        )


def is_over(folder: Path) -> bool:
    """Whether the run does nothing more until a user acts."""
    return state_of(folder) in AT_REST
