"""What a killed supervisor has left behind is ended by the next one; a process that took over a pid is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlora.processes.living import Process, born, end, environment_of, is_alive, read_record, session_of, write_record
from fedlora.processes.supervise import Child, Supervisor, end_orphans

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
SUPERVISE = """
import signal, sys
from pathlib import Path
from fedlora.processes.supervise import Child, Supervisor
script, record = sys.argv[1:]
supervisor = Supervisor([Child("a", [sys.executable, "-c", script])], record=Path(record))
supervisor.step()
print(supervisor.pid("a"), flush=True)
signal.pause()
"""


@pytest.fixture(params=["/proc", "/nowhere"])
def system(request, monkeypatch):
    """Linux, and a system without its /proc."""
    monkeypatch.setattr("fedlora.processes.living.PROC", Path(request.param))


@pytest.mark.usefixtures("system")
def test_a_process_is_told_from_another_with_its_pid():
    assert born(os.getpid()) == born(os.getpid()) is not None
    assert born(2**22 - 1) is born(-1) is None
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert born(ended.pid) is None, "a zombie is nobody"


def test_after_a_kill_of_the_supervisor_the_next_one_ends_its_children_and_theirs(tmp_path):
    """This child does not listen to the SIGTERM that the kernel sends it."""
    record = tmp_path / "processes.json"
    killed = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, STUBBORN, str(record)], stdout=subprocess.PIPE, text=True
    )
    with killed:
        assert killed.stdout is not None
        pids = {int(killed.stdout.readline()), int(killed.stdout.readline())}
        killed.kill()
    left = [Process(pid, born(pid) or "") for pid in pids]
    assert all(map(is_alive, left))
    children = read_record(record).values()
    assert {member for child in children for member in session_of(child)} == set(left)
    ended = end(left, patience_s=0.2)
    wait_gone(left)
    assert set(ended) == set(left)


@pytest.mark.usefixtures("system")
def test_a_supervisor_ends_the_orphans_of_its_record_before_it_starts_anything(tmp_path, monkeypatch):
    monkeypatch.setattr("fedlora.processes.supervise.STOP_S", 0.2)
    record, started = tmp_path / "processes.json", []
    orphan = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True)
    with orphan:
        assert orphan.stdout is not None
        child = int(orphan.stdout.readline())
        write_record(record, {"a": Process(orphan.pid, born(orphan.pid) or "")})
        first = Child("a", ["true"], before=lambda: started.append(born(child)))
        supervisor = Supervisor([first], record=record, tick=lambda: supervisor.stop())
        supervisor.run(poll_s=0)
        assert orphan.wait(20) == -signal.SIGKILL
    assert started == [None]


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("wrong", ["born", "boot"])
def test_a_process_that_was_started_at_another_time_gets_no_signal(tmp_path, wrong):
    record = tmp_path / "processes.json"
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as other:
        write_record(record, {"a": Process(other.pid, "1" if wrong == "born" else born(other.pid) or "")})
        if wrong == "boot":
            record.write_text(json.dumps({**json.loads(record.read_text()), "boot": "an earlier one"}))
        end_orphans(record)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', '{"boot": "", "processes": {"a": 1}}', "\0"])
def test_a_record_that_is_damaged_names_nobody(tmp_path, text):
    record = tmp_path / "processes.json"
    record.write_text(text)
    assert read_record(record) == {}
    assert read_record(tmp_path / "none") == {}


@pytest.mark.usefixtures("system")
def test_a_stopped_process_is_ended_too(tmp_path):
    """SIGSTOP holds SIGTERM back; it is waited for no longer than patience says."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        end([Process(frozen.pid, born(frozen.pid) or "")], patience_s=20.0)
        assert frozen.wait(20) in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_variable_of_a_process_is_what_it_was_started_with():
    with subprocess.Popen(["sleep", "600"], env={"WHERE": "a=ä"}) as other:
        process = Process(other.pid, born(other.pid) or "")
        assert environment_of(process, "WHERE") == "a=ä"
        assert environment_of(process, "HERE") is environment_of(Process(-1, ""), "WHERE") is None
        other.kill()


def wait_gone(processes: list[Process]) -> None:
    give_up = time.monotonic() + 120
    while any(map(is_alive, processes)):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_the_record_is_written_at_every_start(tmp_path):
    record = tmp_path / "processes.json"
    supervisor = Supervisor([Child("a", [sys.executable, "-c", "import time; time.sleep(600)"])], record=record)
    try:
        supervisor.step()
        assert read_record(record)["a"].pid == supervisor.pid("a")
        assert is_alive(read_record(record)["a"])
    finally:
        supervisor.stop_children()
    assert isinstance(json.loads(Path(record).read_text()), dict)
