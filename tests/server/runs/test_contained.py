"""One bad file, or one error of the system, ends neither coordinator nor agent: it is said, and the rest goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.deployment.enroll import ask
from fedlora.config import Recipe
from fedlora.processes import json_logs
from fedlora.processes.duties import Conditions
from fedlora.processes.supervise import Child, Supervisor
from fedlora.settings import SettingsError
from server.deployment import up
from server.deployment.at_flower import SLOW_S
from server.deployment.up import Duties
from server.flower.control import ControlError, Node, UnreachableError
from server.runs.submissions import read_submission, submit
from server.trust.certificates import days_left, issue_server_certificate, make_authority
from server.trust.provision import approve, initialise, read_registry
from server.trust.renewal import RENEW_DAYS, ROLL_DAYS
from tests.server.fakes import Clocks, FakeControl, FakeSupervisor, ticks, wrong

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def clocks(monkeypatch):
    made = Clocks()
    monkeypatch.setattr(up, "time", made)
    return made


@pytest.fixture
def settings(tmp_path):
    made = initialise(tmp_path / "server", name="net", address="x:1")
    return made


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


DAMAGED_RUNS = {
    "submission empty": write("submission.json", ""),
    "submission cut short": write("submission.json", '{"wanted": "going-on", "flower_'),
    "submission of a newer version": write("submission.json", '{"wanted": "going-on", "priority": 1}'),
    "submission of another form": write("submission.json", "[1]"),
    "submission nested without end": write("submission.json", "[" * 100_000),
    "submission is no text": lambda folder: (folder / "submission.json").write_bytes(b"\xff\x00") and None,
    "submission unreadable": lambda folder: (remove("submission.json")(folder), (folder / "submission.json").mkdir())[
        0
    ],
    "status empty": write("status.json", ""),
    "status cut short": write("status.json", '{"state": "runn'),
    "status of a newer version": write("status.json", '{"state": "resting"}'),
    "recipe gone": remove("recipe.yaml"),
}


@pytest.mark.parametrize("damage", DAMAGED_RUNS.values(), ids=DAMAGED_RUNS)
def test_a_run_that_cannot_be_read_is_said_and_kept_and_the_others_go_on(settings, clocks, damage):
    old = submit(settings, Recipe(), name="old")
    damage(old)
    submit(settings, Recipe(), name="good")
    control = FakeControl()
    duties = Duties(settings, control)
    ticks(duties, FakeSupervisor(pid=1), 3)
    assert len(control.submitted) == 1
    assert 'run = "good"' in control.submitted[0]
    assert list(wrong(duties)) == ["run old"]
    assert (old / "submission.json").exists()


def test_a_run_that_was_mended_goes_on(settings, clocks):
    folder = submit(settings, Recipe(), name="old")
    before = (folder / "submission.json").read_bytes()
    (folder / "submission.json").write_text("")
    control = FakeControl()
    duties = Duties(settings, control)
    ticks(duties, FakeSupervisor(pid=1), 3)
    (folder / "submission.json").write_bytes(before)
    ticks(duties, FakeSupervisor(pid=1), 1)
    assert len(control.submitted) == 1
    assert wrong(duties) == {}


DAMAGED_SITES = {
    "empty": write("sites.json", ""),
    "gone": remove("sites.json"),
    "of another form": write("sites.json", "[]"),
    "of a newer version": write("sites.json", '{"a": {"status": "approved", "colour": 1}}'),
}


@pytest.mark.parametrize("damage", DAMAGED_SITES.values(), ids=DAMAGED_SITES)
def test_a_damaged_registry_is_said_and_cuts_nobody_off_and_no_attempt_begins(settings, clocks, tmp_path, damage):
    approve(settings, ask(tmp_path / "a", site="a"))
    control = FakeControl()
    duties, supervisor = Duties(settings, control), FakeSupervisor(pid=1)
    ticks(duties, supervisor, 1)
    damage(settings.folder)
    submit(settings, Recipe(), name="good")
    supervisor.pid = 2  # a new SuperLink, so that the registry is needed
    ticks(duties, supervisor, 2)
    assert len(control.registered) == 1
    assert not control.submitted  # an attempt would end at its first site, and the run be given up
    assert list(wrong(duties)) == ["sites", "run good"]


DAMAGED_CERTIFICATES = {
    "authority's key damaged": write("ca.key", "x"),
    "authority's key readable by others": lambda pki: (pki / "ca.key").chmod(0o644),
    "authority's key gone": remove("ca.key"),
}


@pytest.mark.parametrize("damage", DAMAGED_CERTIFICATES.values(), ids=DAMAGED_CERTIFICATES)
def test_a_certificate_that_is_due_and_cannot_be_renewed_is_said_and_nothing_else_stops(settings, clocks, damage):
    issue_server_certificate(settings.pki, hosts=["x"], days=3)
    damage(settings.pki)
    submit(settings, Recipe(), name="good")
    control = FakeControl()
    duties = Duties(settings, control)
    ticks(duties, FakeSupervisor(pid=1), 2)
    assert list(wrong(duties)) == ["certificate"]
    assert len(control.submitted) == 1


@pytest.mark.parametrize("damage", [write("server.pem", "x"), remove("server.pem")], ids=["damaged", "gone"])
def test_a_certificate_that_is_gone_is_made_again(settings, clocks, damage):
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor(pid=1)
    ticks(duties, supervisor, 1)
    damage(settings.pki)
    ticks(duties, supervisor, 1)
    assert days_left(settings.pki) > RENEW_DAYS
    assert supervisor.restarted == ["superlink"]


def test_a_damaged_certificate_that_cannot_be_made_again_is_not_taken_up(settings, clocks):
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor(pid=1)
    (settings.pki / "ca.key").unlink()
    (settings.pki / "server.pem").write_text("x")
    ticks(duties, supervisor, 2)
    assert supervisor.restarted == []
    assert list(wrong(duties)) == ["certificate", "renewed certificate"]


def test_an_authority_that_is_replaced_is_taken_up_though_the_certificate_cannot_be_renewed(settings, clocks):
    issue_server_certificate(settings.pki, hosts=["x"], days=3)
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor(pid=1)
    (settings.pki / "ca.key").unlink()
    with (settings.pki / "ca.crt").open("a") as file:
        file.write((settings.pki / "ca.crt").read_text())
    ticks(duties, supervisor, 2)
    assert supervisor.restarted == ["superlink"]
    assert list(wrong(duties)) == ["certificate"]


def test_an_authority_that_ends_is_said_half_a_year_before(settings, clocks):
    make_authority(settings.pki, coordinator="net", days=ROLL_DAYS - 1)
    duties = Duties(settings, FakeControl())
    ticks(duties, FakeSupervisor(pid=1), 1)
    assert "roll-authority" in wrong(duties)["authority"]


class Refusing(FakeControl):
    """As a SuperLink with a damaged database."""

    def ping(self) -> None:
        self.failures += 1
        raise ControlError("ListRuns: HTTP 500 of the SuperLink.")


@pytest.mark.parametrize("damaged", [True, False])
def test_a_superlink_that_fails_is_ended_once_if_its_database_is_damaged(settings, clocks, damaged):
    if damaged:
        settings.database.write_bytes(b"x" * 5000)
    duties, supervisor = Duties(settings, Refusing()), FakeSupervisor(pid=1)
    ticks(duties, supervisor, 1)
    assert supervisor.killed == (["superlink"] if damaged else [])
    assert list(wrong(duties)) == ["superlink"]


class Frozen(FakeControl):
    def ping(self) -> None:
        raise UnreachableError("ListRuns: ReadTimeout: timed out")


class Odd(FakeControl):
    def nodes(self) -> dict[int, Node]:
        raise KeyError("nodes")


@pytest.mark.parametrize(("control", "what"), [(Frozen(), "superlink"), (Odd(), "sites")])
def test_a_superlink_that_does_not_answer_or_answers_otherwise_is_said(settings, clocks, control, what):
    duties = Duties(settings, control)
    ticks(duties, FakeSupervisor(pid=1), 2)
    assert what in wrong(duties)


def test_the_coordinators_loop_does_not_wait_for_a_superlink_that_does_not_answer(settings, clocks):
    """The call is under way in another thread; meanwhile a renewed certificate is taken up, and it is said."""
    asked, free = threading.Event(), threading.Event()

    class Stuck(FakeControl):
        def ping(self) -> None:
            self.asked_at = time.monotonic() - SLOW_S - 1
            asked.set()
            assert free.wait(60)

    control = Stuck()
    duties, supervisor = Duties(settings, control), FakeSupervisor(pid=1)
    try:
        duties.tick(supervisor)  # type: ignore[arg-type]  # as much of it as is used
        assert asked.wait(60)
        issue_server_certificate(settings.pki, hosts=["x"])
        duties.tick(supervisor)  # type: ignore[arg-type]
        assert supervisor.restarted == ["superlink"]
        assert "has not answered" in wrong(duties)["superlink"]
    finally:
        free.set()


def test_finished_runs_are_not_read_again_and_stopped_ones_only_when_they_change(settings, clocks, monkeypatch):
    from server.runs import attempts

    for name in ("finished", "stopped", "going-on"):
        folder = submit(settings, Recipe(), name=name)
        if name == "stopped":
            (folder / "submission.json").write_text('{"wanted": "stopped"}')
        if name == "finished":
            (folder / "status.json").write_text('{"state": "finished", "flower_run": "1", "pid": 1, "born": "1"}')
    os.utime(settings.runs, (1e9, 1e9))
    duties, supervisor = Duties(settings, FakeControl()), FakeSupervisor(pid=1)
    ticks(duties, supervisor, 2)
    read: list[str] = []
    look_at = attempts.look_at
    monkeypatch.setattr(attempts, "look_at", lambda folder: (read.append(folder.name), look_at(folder))[1])
    ticks(duties, supervisor, 2)
    assert read == ["going-on"] * 2
    (settings.runs / "stopped" / "submission.json").write_text('{"wanted": "going-on"}')
    ticks(duties, supervisor, 1)
    assert read[2:] in (["stopped", "going-on"], ["going-on", "stopped"])
    assert read_submission(settings.runs / "stopped").attempts == 1


def enospc(*given: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def eagain(*given: object, **named: object) -> None:
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def test_a_log_that_cannot_be_rotated_is_said_and_kept_and_the_children_are_started(tmp_path, monkeypatch):
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 20)
    log.with_suffix(".log.1").write_text("older")
    monkeypatch.setattr(json_logs, "ROTATE_BYTES", 10)
    monkeypatch.setattr(shutil, "copyfile", enospc)
    supervisor = Supervisor([Child("a", SLEEP, {}, log)])
    try:
        supervisor.step()
        assert supervisor.health()["a"]["alive"]
    finally:
        supervisor.stop_children()
    assert "No space left" in said(supervisor.conditions, "log of a")
    assert log.with_suffix(".log.1").read_text() == "older"


def test_a_log_that_cannot_be_opened_costs_the_log_and_not_the_child(tmp_path):
    supervisor = Supervisor([Child("a", SLEEP, {}, tmp_path / "b" / "a")])
    try:
        supervisor.step()
        assert supervisor.health()["a"]["alive"]
    finally:
        supervisor.stop_children()


def test_a_machine_without_a_process_left_is_tried_again_later_and_later(monkeypatch):
    now = 1000.0
    supervisor = Supervisor([Child("a", ["true"])], clock=lambda: now)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", eagain)
        for pause in (0.5, 1.0, 2.0):
            supervisor.step()
            assert supervisor._all["a"].next_start == now + pause
            now += pause
    assert "temporarily unavailable" in said(supervisor.conditions, "start of a")
    supervisor.step()
    assert supervisor.conditions.all()["start of a"].ok
    supervisor.stop_children()


def test_whatever_a_tick_or_a_childs_readiness_raises_the_loop_goes_on(tmp_path):
    turns = 0

    def lacks(pid: int) -> str | None:
        raise OSError(errno.EMFILE, "Too many open files")

    def tick() -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            supervisor.stop()
        raise ValueError("a duty that contains nothing")

    child = Child("a", SLEEP, lacks=lacks)
    supervisor = Supervisor([child], tick=tick, record=tmp_path / "no" / "processes.json")
    supervisor.run(poll_s=0)
    assert turns == 3
    assert "Too many open files" in str(supervisor.health()["a"]["lacks"])
    assert not supervisor.conditions.all()["tick"].ok
    assert not supervisor.conditions.all()["record of processes"].ok


def said(conditions: Conditions, name: str) -> str:
    return conditions.all()[name].why or ""


def test_a_second_coordinator_on_the_same_folder_is_refused_before_it_has_done_anything(settings):
    from fedlora.processes.ownership import sole_owner

    with sole_owner(settings.folder, "the coordinator net"):
        before = sorted(path.name for path in settings.folder.iterdir())
        with pytest.raises(SettingsError, match=rf"in use by the coordinator net, process {os.getpid()}, since 2"):
            up.serve(settings, settings.folder / "server.yaml")
        assert sorted(path.name for path in settings.folder.iterdir()) == before
    assert read_registry(settings).sites == {}
