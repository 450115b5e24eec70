"""A run goes on until its folder is finished: started, started again when it dies, given up when it is hopeless."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.bundles import Kind, admit
from fedlora.config import Recipe
from fedlora.settings import SettingsError
from server import submissions
from server.commands import server
from server.control import ControlError
from server.provision import initialise
from server.submissions import (
    LONGEST_PAUSE_S,
    MOST_FRUITLESS,
    SILENT_S,
    born,
    go_on,
    log_lines,
    read_submission,
    resume,
    state_of,
    stop,
    submit,
    this_process,
    write_bundle,
    write_status,
)


class FakeControl:
    """Accepts every bundle; the status of a run is what the test says."""

    def __init__(self) -> None:
        self.submitted: list[list[str]] = []
        self.stopped: list[str] = []
        self.said = "finished:failed"

    def submit(self, bundle: Path) -> str:
        self.submitted.append(sorted(path.name for path in bundle.iterdir()))
        return str(len(self.submitted))

    def status(self, flower_run: str) -> str:
        return self.said

    def stop(self, flower_run: str) -> None:
        self.stopped.append(flower_run)
        raise ControlError("already finished")


@pytest.fixture
def settings(tmp_path):
    return initialise(tmp_path / "server", name="net", address="x:1")


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
def folder(settings):
    return submit(settings, Recipe(), name="run-1")


def fail(folder: Path) -> None:
    write_status(folder, this_process("failed", read_submission(folder).flower_run or "", "QuorumError: too few"))


def finish_a_round(folder: Path) -> None:
    with (folder / "rounds.jsonl").open("a") as file:
        file.write("{}\n")


def test_a_submitted_run_is_started_once(settings, control, folder):
    for now in (1000.0, 1001.0, 1002.0):
        go_on(settings, control, now=now)
    assert control.submitted == [["pyproject.toml", "recipe.yaml"]]
    assert state_of(folder) == "waiting"


def test_the_bundle_is_one_that_a_site_accepts(tmp_path):
    import io
    import zipfile

    write_bundle(tmp_path, run="a-" + "x" * 60, recipe=b"name: a\n")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in tmp_path.iterdir():
            archive.write(path, path.name)
    assert admit(content.getvalue(), allowed=()) is Kind.CONFIGURATION
    name = next(line for line in (tmp_path / "pyproject.toml").read_text().splitlines() if line.startswith("name"))
    assert len(name.split('"')[1]) <= 32


def test_a_serverapp_that_was_killed_is_seen_at_once_by_its_pid(settings, control, folder):
    go_on(settings, control, now=1000.0)
    write_status(folder, this_process("running", "1"))
    assert state_of(folder) == "running"
    go_on(settings, control, now=1001.0)
    assert len(control.submitted) == 1
    write_status(folder, this_process("running", "1").model_copy(update={"born": "another process"}))
    assert state_of(folder) == "died"
    go_on(settings, control, now=1010.0)
    assert len(control.submitted) == 2
    assert control.stopped == ["1"]


def test_pauses_grow_while_no_round_is_completed_and_vanish_when_one_is(settings, control, folder):
    now, times = 0.0, []
    go_on(settings, control, now=now)
    while read_submission(folder).attempts < 4:
        fail(folder)
        before = read_submission(folder).attempts
        while read_submission(folder).attempts == before:
            now += 1.0
            assert now < 10 * LONGEST_PAUSE_S
            go_on(settings, control, now=now)
        times.append(now)
    assert times == [4.0, 12.0, 28.0]
    finish_a_round(folder)
    fail(folder)
    go_on(settings, control, now=now + 0.1)
    assert read_submission(folder).attempts == 5


def test_a_clock_that_is_set_back_puts_nothing_off(settings, control, folder):
    go_on(settings, control, now=1e9)
    fail(folder)
    go_on(settings, control, now=1e9 - 7200)
    assert len(control.submitted) == 2


def test_a_hopeless_run_is_given_up_and_can_be_resumed(settings, control, folder):
    now = 0.0
    for _ in range(MOST_FRUITLESS + 3):
        go_on(settings, control, now=now)
        fail(folder)
        now += LONGEST_PAUSE_S
    assert state_of(folder) == "gave-up"
    assert len(control.submitted) == MOST_FRUITLESS
    resume(folder)
    go_on(settings, control, now=now)
    assert len(control.submitted) == MOST_FRUITLESS + 1


def test_a_stopped_run_stays_stopped_and_a_finished_one_finished(settings, control, folder):
    go_on(settings, control, now=0.0)
    stop(folder, control)
    fail(folder)
    go_on(settings, control, now=1e6)
    assert state_of(folder) == "stopped"
    resume(folder)
    write_status(folder, this_process("finished", "1"))
    go_on(settings, control, now=2e6)
    assert state_of(folder) == "finished"
    assert len(control.submitted) == 1


def test_what_is_finished_is_neither_stopped_nor_resumed(control, folder):
    finish_a_round(folder)
    write_status(folder, this_process("finished", "1"))
    with pytest.raises(SettingsError, match=r"run-1 is finished, after 1 rounds: there is nothing to stop. .*adapter"):
        stop(folder, control)
    with pytest.raises(SettingsError, match="nothing to go on with"):
        resume(folder)
    assert read_submission(folder).wanted == "going-on"


@pytest.mark.parametrize("words", [("stop", "x"), ("resume", "x"), ("logs", "x"), ("logs", "x", "--follow")])
def test_a_run_that_was_never_submitted_is_answered_with_those_that_were(settings, words):
    config = ("--config", str(settings.folder / "server.yaml"))
    with pytest.raises(SettingsError, match=r"there is no run 'x'; known runs: none yet\. Submit one with"):
        CliRunner().invoke(server, [*words, *config], catch_exceptions=False)
    assert "No runs yet" in CliRunner().invoke(server, ["list", *config]).output
    submit(settings, Recipe(), name="run-1")
    with pytest.raises(SettingsError, match="known runs: run-1"):
        CliRunner().invoke(server, [*words, *config], catch_exceptions=False)


def test_a_run_that_never_says_anything_is_asked_after(settings, control, folder):
    go_on(settings, control, now=0.0)
    control.said = "pending"
    go_on(settings, control, now=SILENT_S + 1)
    assert len(control.submitted) == 1
    control.said = "finished:failed"
    go_on(settings, control, now=2 * SILENT_S + 3)
    assert len(control.submitted) == 2


def test_a_run_that_the_superlink_does_not_know_is_submitted_again(settings, control, folder):
    """Its database was lost before the ServerApp had said anything."""
    go_on(settings, control, now=0.0)
    control.said = "unknown"
    go_on(settings, control, now=SILENT_S + 1)
    assert len(control.submitted) == 2


def test_one_run_that_cannot_be_started_does_not_hold_up_the_others(settings, control, folder, monkeypatch):
    submit(settings, Recipe(), name="run-2")

    def refuse(folder: Path, control: FakeControl, *, now: float) -> None:
        if folder.name == "run-1":
            raise ControlError("no")
        control.submit(folder)

    monkeypatch.setattr(submissions, "_go_on_with", refuse)
    go_on(settings, control, now=0.0)
    assert len(control.submitted) == 1


def test_a_log_is_followed_from_its_last_lines_to_the_end_of_the_run(folder):
    log, asked = folder / "run.log", 0

    def over() -> bool:
        nonlocal asked
        asked += 1
        with log.open("a") as file:
            file.write(f"line {asked}\nhalf a li" if asked == 4 else f"line {asked}\n")
        return asked == 4

    log.write_text("old 1\nold 2\nold 3\n")
    assert list(log_lines(folder, last=2, until=over, poll_s=0)) == ["old 3", *(f"line {n}" for n in (1, 2, 3, 4))]
    assert list(log_lines(folder, last=1, until=lambda: True)) == ["line 4"]


@pytest.mark.parametrize("name", ["../x", "a/b", "A", ""])
def test_a_runs_name_cannot_leave_its_folder(settings, name):
    with pytest.raises(SettingsError, match="small letters"):
        submit(settings, Recipe(), name=name)


def test_a_process_is_told_from_another_with_its_pid():
    assert born(os.getpid()) == born(os.getpid()) is not None
    assert born(2**22 - 1) is None
