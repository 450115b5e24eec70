"""Caps on a site's memory and line, and what it declares: each holds, and says so."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from client import deployed, limits
from client.deployment.agent import children, throttled
from client.deployment.throttle import BYTES_PER_MEGABIT, CHUNK, Pace, Throttle
from client.limits import code_of, limit_memory
from client.settings import ClientSettings, Limits, SiteData
from fedlora import __version__
from fedlora.config import DeviceSettings
from fedlora.protocol.task import Report
from fedlora.settings import SettingsError, parse
from fedlora.units_path import units_folder
from server.replies.messages import parse_report
from tests.privacy.tasks import task


class Clock:
    """Time that passes only in sleep."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_no_more_passes_than_the_rate_allows_and_nothing_is_lost():
    clock = Clock()
    pace, passed = Pace(1000.0, clock=clock, sleep=clock.sleep), 0
    for size in (500, 500, 1000, 1, 3000):
        pace.wait(size)
        passed += size
        assert passed <= 1000.0 * (clock.now - 100.0) + size
    assert clock.now == pytest.approx(100.0 + 2.001)  # the last 3000 begin when those before them are paid for


def test_a_line_that_was_silent_has_saved_nothing_up():
    clock = Clock()
    pace = Pace(1000.0, clock=clock, sleep=clock.sleep)
    pace.wait(1000)
    clock.now += 60
    before = clock.now
    pace.wait(1000)
    pace.wait(1000)
    assert clock.now - before == 1.0


def echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while chunk := connection.recv(CHUNK):
            connection.sendall(chunk)


def test_what_goes_through_comes_back_whole():
    sent = bytes(range(256)) * 2000
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        throttle = Throttle(listener.getsockname(), megabits_s=1000.0)
        host, port = throttle.address.split(":")
        with socket.create_connection((host, int(port)), 10) as near:
            threading.Thread(target=lambda: (near.sendall(sent), near.shutdown(socket.SHUT_WR)), daemon=True).start()
            received = b"".join(iter(lambda: near.recv(CHUNK), b""))
        throttle.stop()
    assert received == sent


def test_a_coordinator_that_is_away_closes_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = listener.getsockname()
    throttle = Throttle(nobody, megabits_s=1.0)
    host, port = throttle.address.split(":")
    with socket.create_connection((host, int(port)), 10) as near:
        assert near.recv(1) == b""
    throttle.stop()


def settings(folder: Path, **changes: object) -> ClientSettings:
    values = {"site": "a", "coordinator": "127.0.0.1:9", "data": SiteData(train=folder / "x.csv"), "folder": folder}
    return ClientSettings(**{**values, **changes})


def test_the_supernode_of_a_limited_site_connects_through_the_limit(tmp_path):
    limited = settings(tmp_path, limits=Limits(megabits_s=2.0))
    throttle = throttled(limited)
    assert throttle is not None
    assert throttle._up._bytes_per_s == 2.0 * BYTES_PER_MEGABIT
    supernode = children(limited, tmp_path / "client.yaml", port=1, coordinator=throttle.address)[0].command
    assert supernode[supernode.index("--superlink") + 1] == throttle.address
    throttle.stop()
    assert throttled(settings(tmp_path)) is None


BOUNDED = """
import torch
from client.limits import code_of, data_bytes, limit_memory
from client.settings import Limits
taken = data_bytes() // 2**20
limit_memory(Limits(memory_mib=max(512, taken + 300)))
held = torch.ones(2**20 * 200 // 4)
try:
    torch.ones(2**20 * 400 // 4)
except Exception as error:
    print(code_of(error))
print(int(held.sum()) == held.numel(), torch.ones(10).sum().item())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_what_does_not_fit_fails_with_a_code_and_the_process_goes_on():
    ran = subprocess.run(
        [sys.executable, "-c", BOUNDED], capture_output=True, text=True, timeout=120, check=False, cwd=units_folder()
    )
    assert ran.stdout.split() == ["out-of-memory", "True", "10.0"], ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_a_bound_that_is_already_passed_is_refused_at_the_start(monkeypatch):
    monkeypatch.setattr(limits, "data_bytes", lambda: 2**40)
    with pytest.raises(SettingsError, match="before any model is loaded; raise it"):
        limit_memory(Limits(memory_mib=512))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "out-of-memory"),
        (torch.OutOfMemoryError("CUDA out of memory: patient 4711"), "out-of-memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "out-of-memory"),
        (RuntimeError("patient 4711"), "internal-error"),
    ],
)
def test_an_exception_leaves_the_site_as_one_of_two_codes(error, code):
    assert code_of(error) == code


@pytest.mark.parametrize("wrong", [{"memory_mib": 1}, {"megabits_s": 0}, {"bandwith": 1}])
def test_a_limit_that_is_none_is_refused(wrong):
    with pytest.raises(SettingsError):
        parse(Limits, wrong)


@pytest.fixture
def introduce(monkeypatch):
    """What a site says of itself with its answers in these runs."""
    monkeypatch.setattr(deployed, "_told", set())
    return lambda runs, where: [
        deployed.introduced(Report(client="a", outcome="failed", round=1), task(run=run), where) for run in runs
    ]


def test_resources_are_told_once_a_run_and_only_if_declared(tmp_path, introduce):
    device = DeviceSettings(memory_mb=800.0)
    assert introduce(["run-0"], settings(tmp_path))[0].resources is None
    told = introduce(["run-1", "run-1", "run-2"], settings(tmp_path, resources=device))
    assert [report.resources for report in told] == [device, None, device]


def test_versions_and_device_are_told_once_a_run_unless_the_site_keeps_them(tmp_path, introduce):
    first, second = introduce(["run-1", "run-1"], settings(tmp_path, device="cpu"))
    assert first.machine is not None
    assert (first.machine.fedlora, first.machine.place, second.machine) == (__version__, "cpu", None)
    assert parse_report(first.model_dump_json()) == first
    assert introduce(["run-2"], settings(tmp_path, tell_machine=False))[0].machine is None


def test_a_machine_that_cannot_be_described_costs_no_answer(tmp_path, introduce, caplog):
    (report,) = introduce(["run-1"], settings(tmp_path, device="my gpu"))
    assert (report.machine, report.outcome) == (None, "failed")
    assert "description of this machine could not be read" in caplog.text
