"""A child that dies is started again, later each time; all of them stop together, and none outlives its supervisor."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlora.deployment.health import serve_health, serve_metrics
from fedlora.processes import json_logs
from fedlora.processes.json_logs import JsonLines
from fedlora.processes.supervise import FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S, STOP_S, Child, Supervisor
from fedlora.settings import SettingsError

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DIE = [sys.executable, "-c", "raise SystemExit(3)"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def settle(supervisor: Supervisor, name: str, wanted: bool) -> None:
    """Wait, without starting anything, until the child is (not) alive."""
    give_up = time.monotonic() + 120
    while supervisor.health()[name]["alive"] is not wanted:
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_pauses_double_with_every_quick_death_up_to_a_bound():
    clock = Clock()
    supervisor = Supervisor([Child("a", DIE)], clock=clock)
    pauses = []
    for _ in range(9):
        supervisor.step()
        settle(supervisor, "a", wanted=False)
        starts = supervisor.health()["a"]["starts"]
        supervisor.step()  # reaps, and does not start before the pause is over
        running = supervisor._all["a"]
        pauses.append(running.next_start - clock.now)
        assert supervisor.health()["a"]["starts"] == starts
        clock.now = running.next_start
    assert pauses == [min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**k) for k in range(9)]
    assert supervisor.health()["a"]["last_exit"] == 3


def test_a_child_that_lived_long_is_started_again_at_once():
    clock = Clock()
    supervisor = Supervisor([Child("a", SLEEP)], clock=clock)
    try:
        supervisor.step()
        clock.now += STEADY_S + 1
        os.kill(int(str(supervisor.health()["a"]["pid"])), signal.SIGKILL)
        settle(supervisor, "a", wanted=False)
        supervisor.step()
        assert supervisor.health()["a"]["alive"]
    finally:
        supervisor.stop_children()


def test_a_child_that_is_to_be_started_afresh_and_does_not_stop_is_ended(tmp_path):
    """Uvicorn waits for every open connection, without a bound; its SuperLink has closed its ports by then."""
    clock, deaf = Clock(), tmp_path / "deaf"
    script = f"import pathlib, signal, time; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(deaf)!r}).touch()"
    supervisor = Supervisor([Child("a", [sys.executable, "-c", f"{script}; time.sleep(600)"])], clock=clock)
    try:
        supervisor.step()
        give_up = time.monotonic() + 120
        while not deaf.exists():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        supervisor.restart("a")
        clock.now += STOP_S - 1
        supervisor.restart("a")  # asked again, it has no longer for it
        supervisor.step()
        assert supervisor.health()["a"]["alive"]
        clock.now += 1
        process = supervisor._all["a"].process
        process.kill = lambda kill=process.kill: (kill(), process.wait())  # dead at once, as it may be
        supervisor.step()
        assert not supervisor.health()["a"]["alive"], "started again before its end was counted"
        supervisor.step()
        assert (supervisor.health()["a"]["starts"], supervisor.health()["a"]["last_exit"]) == (2, -signal.SIGKILL)
    finally:
        supervisor.stop_children()


def test_a_child_waits_for_those_before_it_to_be_ready():
    lacks: str | None = "its port"
    supervisor = Supervisor([Child("a", SLEEP, lacks=lambda pid: lacks), Child("b", SLEEP)])
    try:
        supervisor.step()
        assert not supervisor.health()["b"]["alive"]
        assert supervisor.health()["a"]["lacks"] == "its port"
        lacks = None
        supervisor.step()
        assert supervisor.health()["b"]["alive"]
    finally:
        supervisor.stop_children()
    assert not any(part["alive"] for part in supervisor.health().values())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_children_die_with_a_supervisor_that_is_killed():
    script = (
        "import sys; from fedlora.processes.supervise import *\n"
        f"s = Supervisor([Child('a', {SLEEP!r})]); s.step(); print(s.health()['a']['pid'], flush=True); signal.pause()"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        wait_for_command(child)
        process.kill()
        process.wait()
    give_up = time.monotonic() + 120
    while alive(child):
        assert time.monotonic() < give_up, "the child outlived its supervisor"
        time.sleep(0.05)


def wait_for_command(pid: int) -> None:
    """Until the child has become its command: it dies with its parent from then on."""
    give_up = time.monotonic() + 120
    while (
        b"time.sleep(600)" not in (command := Path(f"/proc/{pid}/cmdline").read_bytes())
        or b"die_with_parent" in command
    ):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_log_that_grows_for_months_is_kept_in_two_files_while_its_child_writes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(json_logs, "ROTATE_BYTES", 10)
    log = tmp_path / "a.log"
    script = "import sys\nwhile line := sys.stdin.readline(): print(line, end='', flush=True)"
    with (
        log.open("ab") as output,
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=output, text=True) as child,
    ):
        assert child.stdin is not None
        for text in ("first and long\n", "second\n"):
            child.stdin.write(text)
            child.stdin.flush()
            give_up = time.monotonic() + 120
            while text not in log.read_text():
                assert time.monotonic() < give_up
                time.sleep(0.01)
            json_logs.rotate(log)
        child.stdin.close()
    assert log.read_text() == "second\n"
    assert log.with_suffix(".log.1").read_text() == "first and long\n"


def test_a_log_line_is_one_json_object_with_its_fields():
    record = logging.makeLogRecord({"msg": "exited", "levelname": "WARNING", "child": "a", "status": 1})
    line = JsonLines().format(record)
    assert '"event": "exited"' in line
    assert '"child": "a", "status": 1' in line
    assert "\n" not in line


def test_a_port_that_is_taken_is_said_with_the_setting_that_moves_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=rf"127\.0\.0\.1:{port}: Address already in use\. .* another health_port"
        ):
            serve_health(dict, port=port)
        with pytest.raises(SettingsError, match="another metrics_listen"):
            serve_metrics(bytes, host="127.0.0.1", port=port)
