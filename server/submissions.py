"""Runs of a deployed coordinator: a folder each, and a Flower run that is started again until it is finished.

    runs/<name>/recipe.yaml          what was submitted
                submission.json      wanted (going on, stopped), Flower's run id, attempts
                status.json          what the ServerApp last said: running (pid), failed (why), finished
                checkpoint.safetensors, rounds.jsonl, adapter/     of the loop itself

A Flower run that dies - killed, or its quorum missed - is submitted again and resumes from the checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from fedlora.config import Recipe
from fedlora.enrolment import require_name
from fedlora.files import write_atomically
from fedlora.plain_yaml import yaml_text
from fedlora.protocol import recorded
from fedlora.settings import Settings, SettingsError, parse
from server.control import Control, ControlError
from server.settings import ServerSettings

log = logging.getLogger("fedlora.submissions")

MOST_FRUITLESS = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
SILENT_S = 90.0
"""A submitted run that has not said anything for this long is asked after."""

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "Configuration of a fedlora run; every site runs the client that it installed"
license = "Apache-2.0"
dependencies = ["flwr>=1.39,<1.40"]

[tool.flwr.app]
publisher = "fedlora"

[tool.flwr.app.components]
serverapp = "server.deployed:app"
clientapp = "client.deployed:app"

[tool.flwr.app.config]
run = "{run}"
"""


class Submission(Settings):
    """What is wanted of a run, and what was tried."""

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
    """What the ServerApp says of itself."""

    state: Literal["running", "failed", "finished"]
    flower_run: str
    pid: int
    born: str
    """Start time of that process, so that another one with its pid is not taken for it."""
    why: str | None = None


def submit(settings: ServerSettings, recipe: Recipe, *, name: str) -> Path:
    """Make the run's folder; the coordinator that is up starts it. SettingsError if the name is taken."""
    require_name(name, what="run")
    refuse_attack(recipe)
    folder = settings.runs / name
    if folder.exists():
        raise SettingsError(f"there is already a run {name!r} in {settings.runs}; choose another --name.")
    folder.mkdir(parents=True)
    text = yaml_text(recorded(recipe))
    write_atomically(folder / "recipe.yaml", text.encode())
    write_submission(folder, Submission())
    return folder


def refuse_attack(recipe: Recipe) -> None:
    """SettingsError for a recipe that is made for a simulation's liars: it would look like a run of honest sites."""
    if recipe.attack is not None:
        raise SettingsError("attack is for `fedlora simulate` only: no real site can be told to lie. Remove it.")


def read_submission(folder: Path) -> Submission:
    return parse(Submission, json.loads((folder / "submission.json").read_text(encoding="utf-8")))


def write_submission(folder: Path, submission: Submission) -> None:
    write_atomically(folder / "submission.json", submission.model_dump_json(indent=2).encode())


def read_status(folder: Path) -> Status | None:
    """None before the ServerApp has said anything."""
    try:
        return parse(Status, json.loads((folder / "status.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write_status(folder: Path, status: Status) -> None:
    write_atomically(folder / "status.json", status.model_dump_json(indent=2).encode())


def born(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


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
    return [path.parent for path in sorted(found, key=lambda path: path.parent.stat().st_ctime)]


def run_folder(settings: ServerSettings, name: str) -> Path:
    """The folder of a run that was submitted; SettingsError with those that were if there is none of this name."""
    folder = settings.runs / require_name(name, what="run")
    if not (folder / "submission.json").exists():
        known = ", ".join(path.name for path in runs(settings)) or "none yet"
        raise SettingsError(
            f"there is no run {name!r}; known runs: {known}. Submit one with: fedlora server run RECIPE"
        )
    return folder


def state_of(folder: Path) -> str:
    """One word for a person: finished, running, failed (will be tried again), waiting, stopped, gave-up."""
    status, submission = read_status(folder), read_submission(folder)
    if status is not None and status.state == "finished":
        return "finished"
    if submission.wanted != "going-on":
        return submission.wanted
    if status is None or submission.flower_run is None or status.flower_run != submission.flower_run:
        return "waiting"
    if status.state == "running" and born(status.pid) != status.born:
        return "died"
    return status.state


def go_on(settings: ServerSettings, control: Control, *, now: float) -> None:
    """Start every run that is wanted and not at work. Called every second or so; talks to Flower only when it must."""
    for folder in runs(settings):
        try:
            _go_on_with(folder, control, now=now)
        except ControlError as error:
            log.warning("a run cannot be started yet", extra={"run": folder.name, "why": str(error)})


def _go_on_with(folder: Path, control: Control, *, now: float) -> None:
    submission, state = read_submission(folder), state_of(folder)
    since = now - submission.submitted_at
    if since < 0:  # the clock was set back since: nobody waits until it has caught up
        since = math.inf
    if state in ("finished", "running", "stopped", "gave-up"):
        return
    if submission.flower_run is not None and state == "waiting":
        if since < SILENT_S:
            return
        if control.status(submission.flower_run).startswith(("pending", "starting")):
            write_submission(folder, submission.model_copy(update={"submitted_at": now}))
            return
    done = completed_rounds(folder)
    fruitless = submission.fruitless
    if submission.flower_run is not None:
        fruitless = 0 if done > submission.rounds_before else fruitless + 1
    if fruitless >= MOST_FRUITLESS:
        write_submission(folder, submission.model_copy(update={"wanted": "gave-up"}))
        log.error("a run is given up", extra={"run": folder.name, "attempts": submission.attempts})
        return
    pause = 0.0 if fruitless == 0 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**fruitless)
    if since < pause:
        return
    if submission.flower_run is not None:
        _stop_quietly(control, submission.flower_run)
    flower_run = _submit_bundle(folder, control)
    values = {"flower_run": flower_run, "submitted_at": now, "attempts": submission.attempts + 1}
    values |= {"fruitless": fruitless, "rounds_before": done}
    write_submission(folder, submission.model_copy(update=values))
    log.info("a run is submitted", extra={"run": folder.name, "attempt": submission.attempts + 1, "rounds": done})


def stop(folder: Path, control: Control) -> None:
    """Stop a run for good: it is not started again (until `fedlora server resume`)."""
    _require_unfinished(folder, "stop")
    submission = read_submission(folder)
    write_submission(folder, submission.model_copy(update={"wanted": "stopped"}))
    if submission.flower_run is not None:
        _stop_quietly(control, submission.flower_run)


def resume(folder: Path) -> None:
    """Go on with a run that was stopped or given up."""
    _require_unfinished(folder, "go on with")
    submission = read_submission(folder)
    write_submission(folder, submission.model_copy(update={"wanted": "going-on", "fruitless": 0}))


def _require_unfinished(folder: Path, what: str) -> None:
    if state_of(folder) == "finished":
        raise SettingsError(
            f"{folder.name} is finished, after {completed_rounds(folder)} rounds: there is nothing to {what}. Its "
            f"result is {folder / 'adapter'}."
        )


def is_over(folder: Path) -> bool:
    """Whether the run will do nothing more by itself."""
    return state_of(folder) in ("finished", "stopped", "gave-up")


def log_lines(folder: Path, *, last: int, until: Callable[[], bool], poll_s: float = 0.5) -> Iterator[str]:
    """The `last` lines of a run's log, and then those that are added, up to the moment when `until` is true."""
    path, seen = folder / "run.log", 0
    while True:
        over = until()  # asked before reading: what was written by then is read
        whole = path.read_bytes() if path.exists() else b""
        found = whole[: whole.rfind(b"\n") + 1].decode("utf-8").splitlines()
        yield from found[max(seen, 0 if seen else len(found) - last) :]
        seen = len(found)
        if over:
            return
        time.sleep(poll_s)


def write_bundle(folder: Path, *, run: str, recipe: bytes) -> None:
    """The Flower app that is shipped: configuration only, for the record; no code."""
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=f"fedlora-{run}"[:32].rstrip("-"), run=run))
    (folder / "recipe.yaml").write_bytes(recipe)


def _submit_bundle(folder: Path, control: Control) -> str:
    with tempfile.TemporaryDirectory(prefix="bundle-") as temporary:
        write_bundle(Path(temporary), run=folder.name, recipe=(folder / "recipe.yaml").read_bytes())
        return control.submit(Path(temporary))


def _stop_quietly(control: Control, flower_run: str) -> None:
    """An old attempt that is already over cannot be stopped, and need not be."""
    try:
        control.stop(flower_run)
    except ControlError as error:
        log.info("the old attempt is over", extra={"flower_run": flower_run, "said": str(error)[:200]})


def wait_until(folder: Path, *, states: tuple[str, ...], timeout_s: float, poll_s: float = 0.5) -> str:
    """The run's state once it is one of `states`; TimeoutError with the state it is in."""
    give_up = time.monotonic() + timeout_s
    while (state := state_of(folder)) not in states:
        if time.monotonic() > give_up:
            raise TimeoutError(
                f"run {folder.name} is {state!r} after {timeout_s:.0f} s, {completed_rounds(folder)} rounds"
            )
        time.sleep(poll_s)
    return state
