"""A process that two have stopped goes on when both have let it go."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.chaos.holds import Holds, is_stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def becomes(pid: int, stopped: bool) -> bool:
    give_up = time.monotonic() + 120
    while is_stopped(pid) != stopped and time.monotonic() < give_up:
        time.sleep(0.01)
    return is_stopped(pid) == stopped


def test_a_process_goes_on_when_the_last_hold_is_over(sleeper):
    holds = Holds()
    with holds.stopped(sleeper):
        with holds.stopped(sleeper):
            assert becomes(sleeper, True)
        time.sleep(0.1)
        assert is_stopped(sleeper)
    assert becomes(sleeper, False)


def test_a_process_that_is_gone_is_let_go_without_an_error():
    gone = subprocess.Popen(["true"])
    gone.wait()
    with Holds().stopped(gone.pid):
        pass
