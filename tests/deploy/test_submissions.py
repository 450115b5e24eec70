"""A run goes on until its folder is finished: started, started again when it dies, given up when it is hopeless."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.flower.bundles import Kind, admit
from fedlora.config import Recipe
from fedlora.settings import SettingsError
from server.commands.server import server
from server.flower.control import ControlError, UnreachableError
from server.runs import attempts
from server.runs.attempts import ASK_S, LONGEST_PAUSE_S, MOST_FRUITLESS, Watch
from server.runs.bundle import write_bundle
from server.runs.submissions import (
    change_submission,
    look_at,
    read_submission,
    resume,
    state_of,
    stop,
    submit,
    this_process,
    write_status,
)
from server.trust.provision import initialise


class FakeControl:
    """Accepts every bundle; the status of a run is what the test says, and a call takes as long."""

    def __init__(self) -> None:
        self.submitted: list[list[str]] = []
        self.stopped: list[str] = []
        self.said = "finished:failed"
        self.call_s, self.elapsed_s = 0.0, 0.0
        self.reachable = True

    def submit(self, bundle: Path) -> str:
        self._call()
        self.submitted.append(sorted(path.name for path in bundle.iterdir()))
        return str(len(self.submitted))

    def status(self, flower_run: str) -> str:
        self._call()
        return self.said

    def stop(self, flower_run: str) -> None:
        self._call()
        self.stopped.append(flower_run)

    def _call(self) -> None:
        self.elapsed_s += self.call_s
        if not self.reachable:
            raise UnreachableError("ConnectError")


@pytest.fixture
def settings(tmp_path):
    return initialise(tmp_path / "server", name="net", address="x:1")


@pytest.fixture
def control():
    return FakeControl()


@pytest.fixture
def silent_s(settings):
    return settings.patience.silent_s


def go_on(settings, control, *, now: float, watch: Watch | None = None) -> None:
    """By a clock that runs only while Flower is asked."""
    attempts.go_on(settings, control, now=now, watch=watch, monotonic=lambda: control.elapsed_s)


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
    with pytest.raises(SettingsError, match=r"run-1 finished after 1 rounds: there is nothing to stop. .*adapter"):
        stop(folder, control)
    with pytest.raises(SettingsError, match="nothing to continue"):
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
    said = CliRunner().invoke(server, ["list", *config], catch_exceptions=False).output.splitlines()
    assert [line.split() for line in said] == [["run", "state", "rounds", "attempts"], ["run-1", "waiting", "0", "0"]]


def test_a_run_that_never_says_anything_is_asked_after(settings, control, folder, silent_s):
    go_on(settings, control, now=0.0)
    control.said = "pending"
    go_on(settings, control, now=silent_s + 1)
    assert len(control.submitted) == 1
    control.said = "finished:failed"
    go_on(settings, control, now=2 * silent_s + 3)
    assert len(control.submitted) == 2


def test_a_run_that_the_superlink_does_not_know_is_submitted_again(settings, control, folder, silent_s):
    """Its database was lost before the ServerApp had said anything."""
    go_on(settings, control, now=0.0)
    control.said = "unknown"
    go_on(settings, control, now=silent_s + 1)
    assert len(control.submitted) == 2


def test_one_run_that_cannot_be_started_does_not_hold_up_the_others(settings, folder):
    class Refusing(FakeControl):
        def submit(self, bundle: Path) -> str:
            if 'run = "run-1"' in (bundle / "pyproject.toml").read_text():
                raise ControlError("StartRun: no")
            return super().submit(bundle)

    submit(settings, Recipe(), name="run-2")
    control, watch = Refusing(), Watch()
    go_on(settings, control, now=0.0, watch=watch)
    assert len(control.submitted) == 1
    assert watch.conditions.all()["run run-1"].why == "ControlError: StartRun: no"


def test_a_serverapp_that_is_slow_to_say_its_first_word_is_left_alone(settings, control, folder, silent_s):
    """On a busy machine its imports take minutes, and every call of Flower's half a minute."""
    control.said, control.call_s, watch = "running", 30.0, Watch()
    now = 0.0
    while now < settings.patience.running_s:
        control.elapsed_s = 0.0
        go_on(settings, control, now=now, watch=watch)
        now += 45.0
    assert (control.submitted, control.stopped) == ([["pyproject.toml", "recipe.yaml"]], [])
    assert watch.conditions.all()["run run-1"].why == "its ServerApp runs but has not reported yet"
    write_status(folder, this_process("running", "1"))
    go_on(settings, control, now=now, watch=watch)
    assert state_of(folder) == "running"
    assert "run run-1" not in watch.conditions.all()


def test_patience_counts_from_the_end_of_the_call_that_submitted_the_run(settings, control, folder, silent_s):
    control.call_s = 80.0
    go_on(settings, control, now=0.0)
    assert read_submission(folder).submitted_at == 80.0
    control.elapsed_s = control.call_s = 0.0
    control.said = "finished:failed"
    go_on(settings, control, now=80.0 + silent_s - 1)
    assert len(control.submitted) == 1
    go_on(settings, control, now=80.0 + silent_s + 1)
    assert len(control.submitted) == 2


def test_a_serverapp_that_hangs_is_looked_at_twice_and_then_stopped(settings, control, folder):
    control.said, watch, over = "running", Watch(), settings.patience.running_s
    go_on(settings, control, now=0.0, watch=watch)
    go_on(settings, control, now=over + 1, watch=watch)
    assert control.stopped == []
    go_on(settings, control, now=over + ASK_S + 1, watch=watch)
    assert (control.stopped, len(control.submitted)) == (["1"], 2)


def test_a_serverapp_that_speaks_while_flower_is_asked_is_not_stopped(settings, folder):
    class Slow(FakeControl):
        def status(self, flower_run: str) -> str:
            if asked:
                write_status(folder, this_process("running", flower_run))
            asked.append(flower_run)
            return "running"

    asked: list[str] = []
    control, watch, over = Slow(), Watch(), settings.patience.running_s
    go_on(settings, control, now=0.0, watch=watch)
    for now in (over + 1, over + ASK_S + 1, over + 2 * ASK_S + 1):
        go_on(settings, control, now=now, watch=watch)
    assert (len(asked), control.stopped, len(control.submitted)) == (2, [], 1)


def test_bounds_are_settings(settings, control, folder):
    patience = settings.patience.model_copy(update={"silent_s": 5.0, "running_s": 10.0})
    short, watch = settings.model_copy(update={"patience": patience}), Watch()
    control.said = "running"
    for now in (0.0, 11.0, 11.0 + ASK_S):
        go_on(short, control, now=now, watch=watch)
    assert len(control.submitted) == 2


def test_giving_up_stops_what_is_left_and_says_why_in_status_and_list(settings, control, folder):
    now, watch = 0.0, Watch()
    for _ in range(MOST_FRUITLESS + 1):
        go_on(settings, control, now=now, watch=watch)
        last = read_submission(folder).flower_run
        fail(folder)
        now += LONGEST_PAUSE_S
    assert state_of(folder) == "gave-up"
    assert control.stopped[-1] == last == str(MOST_FRUITLESS)
    many = MOST_FRUITLESS
    words = f"given up after {many} attempts, the last {many} without a completed round (0 are complete)"
    why = look_at(folder).why or ""
    assert why.startswith(words)
    assert "QuorumError: too few" in why
    assert watch.conditions.all()["run run-1"].why == why
    shown = CliRunner().invoke(server, ["list", "--json", "--config", str(settings.folder / "server.yaml")]).output
    assert words in shown


def test_a_run_is_not_given_up_before_what_is_left_of_it_is_stopped(settings, control, folder):
    now = 0.0
    for _ in range(MOST_FRUITLESS):
        go_on(settings, control, now=now)
        fail(folder)
        now += LONGEST_PAUSE_S
    control.reachable = False
    with pytest.raises(UnreachableError):
        go_on(settings, control, now=now)
    assert read_submission(folder).wanted == "going-on"
    control.reachable = True
    go_on(settings, control, now=now)
    assert state_of(folder) == "gave-up"


def test_a_run_that_was_stopped_while_flower_was_away_is_stopped_when_it_is_back(settings, control, folder):
    watch = Watch()
    go_on(settings, control, now=0.0, watch=watch)
    control.reachable = False
    stop(folder, control)
    control.reachable, control.stopped = True, []
    for now in (1.0, 2.0, 3.0):
        go_on(settings, control, now=now, watch=watch)
    assert control.stopped == ["1"]
    assert state_of(folder) == "stopped"


def test_a_stop_that_comes_while_the_run_is_being_submitted_is_not_lost(settings, folder):
    class Slow(FakeControl):
        def submit(self, bundle: Path) -> str:
            change_submission(folder, wanted="stopped")
            return super().submit(bundle)

    control, watch = Slow(), Watch()
    go_on(settings, control, now=0.0, watch=watch)
    assert state_of(folder) == "stopped"
    go_on(settings, control, now=1.0, watch=watch)
    assert control.stopped == ["1"]


def test_an_attempt_of_which_nobody_took_note_is_as_good_as_any(settings, control, folder):
    """The coordinator was killed between Flower's answer and its own note of it."""
    go_on(settings, control, now=0.0)
    write_status(folder, this_process("running", "17"))
    go_on(settings, control, now=1e6)
    assert state_of(folder) == "running"
    assert (read_submission(folder).flower_run, len(control.submitted), control.stopped) == ("17", 1, [])


@pytest.mark.parametrize("name", ["../x", "a/b", "A", ""])
def test_a_runs_name_cannot_leave_its_folder(settings, name):
    with pytest.raises(SettingsError, match="small letters"):
        submit(settings, Recipe(), name=name)
