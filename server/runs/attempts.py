"""Keeps every wanted run going: submitted to Flower, asked after when it is silent, submitted again when it is dead.

Liveness, in this order: a ServerApp whose process lives is at work. One that has not said a word since its submission
is asked after at Flower: pending or starting, it waits for the executor; running, it imports, and is left alone for
`patience.running_s`; finished or unknown, it is dead. Every time counts from the end of the call that submitted it.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedlora.processes.duties import Conditions, in_words
from server.flower.control import Control, UnreachableError
from server.runs.bundle import write_bundle
from server.runs.submissions import (
    AT_REST,
    Look,
    Submission,
    change_submission,
    completed_rounds,
    look_at,
    runs,
    state_of,
    write_reason,
)
from server.settings import Deadlines, ServerSettings
from server.trust.provision import read_registry

log = logging.getLogger("fedlora.submissions")

MOST_FRUITLESS = 6
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
ASK_S = 30.0
"""How often Flower is asked about a silent run, in seconds; also the wait before the last check, after which it is
stopped."""
FRESH_S = 2.0
"""A change of runs/ that is no older may be followed by another within one tick of the file system's clock."""

RUN = "run "
"""Prefix of a run's name in the conditions."""

Clock = Callable[[], float]
Stamp = tuple[tuple[int, int] | None, ...]


@dataclass
class Watch:
    """A coordinator's memory of its runs between two checks. It can be lost at no cost but time."""

    conditions: Conditions = field(default_factory=Conditions)
    asked_at: dict[str, float] = field(default_factory=dict)
    """When a silent Flower run was last asked after."""
    overdue_at: dict[str, float] = field(default_factory=dict)
    """When a Flower run that calls itself running was first found to be silent for too long."""
    why: dict[str, str] = field(default_factory=dict)
    """The last finding about a silent Flower run, until it is checked again."""
    ended: set[str] = field(default_factory=set)
    """Flower runs that were told to stop, and over since."""
    _listed_at: int = -1
    _folders: list[Path] = field(default_factory=list)
    _resting: dict[str, Stamp] = field(default_factory=dict)

    def folders(self, settings: ServerSettings) -> list[Path]:
        """Those that may need something. A run at rest is not read again before its files change; a finished one not
        before runs/ does."""
        try:
            changed = settings.runs.stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if changed != self._listed_at or abs(time.time() - changed / 1e9) < FRESH_S:
            self._listed_at = changed
            self._folders = [path for path in settings.runs.iterdir() if path.is_dir()]
            self._resting = {}
            known = {folder: order for order, folder in enumerate(runs(settings))}
            self._folders.sort(key=lambda folder: known.get(folder, math.inf))
            names = {f"{RUN}{folder.name}" for folder in self._folders}
            for gone in [name for name in self.conditions.all() if name.startswith(RUN) and name not in names]:
                self.conditions.forget(gone)
        return [folder for folder in self._folders if self._is_due(folder)]

    def rests(self, folder: Path, state: str) -> None:
        """Nothing needs to be done about it until its files change; nor then, when it is finished."""
        if state == "finished":
            self._folders = [other for other in self._folders if other != folder]
        self._resting[folder.name] = stamp_of(folder)

    def _is_due(self, folder: Path) -> bool:
        stamp = stamp_of(folder)
        return stamp[0] is not None and stamp != self._resting.get(folder.name)


def stamp_of(folder: Path) -> Stamp:
    """Changes when the run's submission or status does."""
    found: list[tuple[int, int] | None] = []
    for name in ("submission.json", "status.json"):
        try:
            stat = (folder / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns))
    return tuple(found)


def go_on(
    settings: ServerSettings,
    control: Control,
    *,
    now: float,
    watch: Watch | None = None,
    monotonic: Clock = time.monotonic,
) -> None:
    """Do for every run what is due. Called every second or so; talks to Flower only when it must.

    `now`: Unix time, of a clock that only runs. Guarantee: whatever is wrong with one run is said in
    `watch.conditions`, and the others are seen to. Errors: UnreachableError where Flower does not answer at all.
    """
    watch, began = watch or Watch(), monotonic()
    look = _Look(settings, control, watch, at=lambda: now + monotonic() - began)
    for folder in watch.folders(settings):
        try:
            why = look.at_run(folder)
        except UnreachableError:
            raise
        except Exception as error:
            why = in_words(error)
        watch.conditions.say_if_any(f"{RUN}{folder.name}", why)


@dataclass(frozen=True)
class _Look:
    """One check of all runs, with a clock that also runs during calls."""

    settings: ServerSettings
    control: Control
    watch: Watch
    at: Clock

    @property
    def patience(self) -> Deadlines:
        return self.settings.patience

    def at_run(self, folder: Path) -> str | None:
        """Do what is due; returns what is wrong with the run, in words."""
        seen = look_at(folder)
        if seen.state in AT_REST:
            if seen.state in ("stopped", "gave-up") and not self._is_ended(seen):
                return "it is being stopped; its ServerApp is still working"
            self.watch.rests(folder, seen.state)
            return seen.why or seen.state if seen.state in ("damaged", "gave-up") else None
        if seen.state == "running":
            self._adopt(folder, seen)
            return None
        if seen.state == "waiting" and seen.submission.flower_run is not None:
            waits, why = self._may_wait(folder, seen.submission, seen.submission.flower_run)
            if waits:
                return why
        return self._again(folder, seen)

    def _is_ended(self, seen: Look) -> bool:
        """Whether neither Flower nor this machine has anything of the run at work; stops it where one has."""
        flower_runs = {seen.submission.flower_run, seen.status.flower_run if seen.at_work and seen.status else None}
        for flower_run in flower_runs - {None} - self.watch.ended:
            assert flower_run is not None
            self.control.stop(flower_run)
            if not seen.at_work:
                self.watch.ended.add(flower_run)
        return not seen.at_work

    def _adopt(self, folder: Path, seen: Look) -> None:
        """Record an attempt that works, if it is not the recorded one."""
        assert seen.status is not None
        if seen.status.flower_run != seen.submission.flower_run:
            change_submission(folder, flower_run=seen.status.flower_run)

    def _may_wait(self, folder: Path, submission: Submission, flower_run: str) -> tuple[bool, str | None]:
        """Whether a run that has not said a word is left alone, and what there is to say of it."""
        silent_s = self.at() - submission.submitted_at
        if silent_s < 0:  # the clock was set back while no coordinator was up
            change_submission(folder, submitted_at=self.at())
        if silent_s < self.patience.silent_s or self.at() - self.watch.asked_at.get(flower_run, -math.inf) < ASK_S:
            return True, self.watch.why.get(flower_run)
        said = self.control.status(flower_run)
        self.watch.asked_at[flower_run] = self.at()
        if state_of(folder) != "waiting":  # it has said its first word while Flower was asked
            return True, None
        if said.startswith(("pending", "starting")):
            change_submission(folder, submitted_at=self.at())
            return True, self._note(flower_run, f"Flower has not started its ServerApp ({said})")
        if not said.startswith("running"):
            return False, None
        if silent_s < self.patience.running_s:
            return True, self._note(flower_run, "its ServerApp runs but has not reported yet")
        first = self.watch.overdue_at.setdefault(flower_run, self.at())
        why = self._note(flower_run, "its ServerApp runs but has not reported for too long, and will be stopped")
        return self.at() - first < ASK_S, why

    def _note(self, flower_run: str, why: str) -> str:
        self.watch.why[flower_run] = why
        return why

    def _again(self, folder: Path, seen: Look) -> str | None:
        """Submit it, after a pause if attempts bear no fruit; or give it up."""
        submission = seen.submission
        done = completed_rounds(folder)
        fruitless = submission.fruitless
        if submission.flower_run is not None:
            fruitless = 0 if done > submission.rounds_before else fruitless + 1
        last = seen.why or "it ended without a message"
        if fruitless >= MOST_FRUITLESS:
            return self._give_up(folder, seen, f"({done} are complete); the last one: {last}")
        since = self.at() - submission.submitted_at
        pause = 0.0 if fruitless == 0 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**fruitless)
        if 0 <= since < pause:  # a clock that was set back puts nothing off
            return f"{last}; trying again"
        read_registry(self.settings)  # without it an attempt ends at its first site, and the run would be given up
        if submission.flower_run is not None:
            self.control.stop(submission.flower_run)
        flower_run = submit_bundle(folder, self.control)
        counted = {"attempts": submission.attempts + 1, "fruitless": fruitless, "rounds_before": done}
        change_submission(folder, flower_run=flower_run, submitted_at=self.at(), **counted)
        log.info("a run is submitted", extra={"run": folder.name, "attempt": submission.attempts + 1, "rounds": done})
        return f"{last}; trying again" if fruitless else None

    def _give_up(self, folder: Path, seen: Look, last: str) -> str:
        """Stop what is left of it, then say that it is given up and why."""
        submission = seen.submission
        if submission.flower_run is not None:
            self.control.stop(submission.flower_run)
        why = (
            f"given up after {submission.attempts} attempts, the last {MOST_FRUITLESS} without a completed round {last}"
        )
        write_reason(folder, why)  # in a file of its own: a ServerApp that is stopped now still writes its status
        change_submission(folder, wanted="gave-up")
        log.error("a run is given up", extra={"run": folder.name, "attempts": submission.attempts, "why": why})
        return why


def submit_bundle(folder: Path, control: Control) -> str:
    """Hand a run to Flower; its id there."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as temporary:
        write_bundle(Path(temporary), run=folder.name, recipe=(folder / "recipe.yaml").read_bytes())
        return control.submit(Path(temporary))
