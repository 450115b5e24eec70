"""A SuperNode that lives without a connection is started afresh; one that is connected is left alone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from client.lifeline import LOOK_S, PATIENCE_S, START_S, Lifeline, connected
from fedlora.supervise import Child, Supervisor

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def supervisor():
    made = Supervisor([Child("supernode", SLEEP)])
    made.step()
    yield made
    made.stop_children()


def turns(lifeline: Lifeline, supervisor: Supervisor, clock: Clock, seconds: float) -> None:
    until = clock.now + seconds
    while clock.now <= until:
        lifeline.tick(supervisor)
        clock.now += LOOK_S


def killed(supervisor: Supervisor) -> bool:
    process = supervisor._all["supernode"].process
    assert process is not None
    try:
        return process.wait(0.5) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        return False


def test_a_supernode_without_a_connection_is_killed_after_a_while_and_not_before(supervisor):
    clock = Clock()
    up = {"is": True}
    lifeline = Lifeline(lambda pid: up["is"], clock=clock)
    turns(lifeline, supervisor, clock, 2 * LOOK_S)
    up["is"] = False
    turns(lifeline, supervisor, clock, PATIENCE_S - 2 * LOOK_S)
    assert not killed(supervisor)
    turns(lifeline, supervisor, clock, 3 * LOOK_S)
    assert killed(supervisor)


def test_a_supernode_that_has_never_been_connected_has_the_time_that_a_busy_machine_takes_to_start_it(supervisor):
    clock = Clock()
    lifeline = Lifeline(lambda pid: False, clock=clock)
    turns(lifeline, supervisor, clock, START_S - LOOK_S)
    assert not killed(supervisor)
    turns(lifeline, supervisor, clock, 3 * LOOK_S)
    assert killed(supervisor)


def test_a_connection_that_comes_back_in_time_is_forgiven(supervisor):
    clock, up = Clock(), {"is": False}
    lifeline = Lifeline(lambda pid: up["is"], clock=clock)
    for _ in range(5):
        up["is"] = False
        turns(lifeline, supervisor, clock, PATIENCE_S - 2 * LOOK_S)
        up["is"] = True
        turns(lifeline, supervisor, clock, LOOK_S)
    assert not killed(supervisor)


def test_a_new_process_has_its_own_time():
    clock = Clock()
    lifeline = Lifeline(lambda pid: False, clock=clock)
    for _ in range(3):
        supervisor = Supervisor([Child("supernode", SLEEP)])
        supervisor.step()
        turns(lifeline, supervisor, clock, PATIENCE_S - LOOK_S)
        assert not killed(supervisor)
        supervisor.stop_children()


SUPERNODE = """
import socket, sys
own = socket.create_server(("127.0.0.1", 0))
print(own.getsockname()[1], flush=True)
executor, _ = own.accept()
sys.stdin.readline()
coordinator = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_only_a_connection_that_it_has_made_itself_counts():
    """Not that it listens, nor that its executor is connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as coordinator:
        command = [sys.executable, "-c", SUPERNODE, str(coordinator.getsockname()[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)):
                assert not connected(process.pid, own_port=port)
                process.stdin.write("\n")
                assert process.stdout.readline() == "connected\n"
                assert connected(process.pid, own_port=port)
            process.stdin.write("\n")
