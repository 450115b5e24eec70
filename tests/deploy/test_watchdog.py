"""A SuperNode that lives without a connection is started afresh; one that is connected, or has nobody to connect to, is
left alone; and the agent of a revoked site says so and stops."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import grpc
import pytest

from client.flower.clock import WRONG_TIME
from client.flower.standing import NOT_APPROVED, Standing, meaning
from client.flower.watchdog import ASK_S, CONDITION, LOOK_S, SAY_S, Watchdog
from client.settings import ClientSettings, Deadlines
from fedlora.processes.duties import Conditions
from fedlora.processes.sockets import connected
from fedlora.processes.supervise import Child, Supervisor
from fedlora.settings import parse

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
SETTINGS = parse(ClientSettings, {"site": "a", "coordinator": "x:1", "data": {"train": "train.csv"}})
PATIENCE = Deadlines()


class Site:
    """A watchdog at a clock of its own; `up` and `says` are what it sees."""

    def __init__(self, supervisor: Supervisor, settings: ClientSettings = SETTINGS) -> None:
        self.supervisor = supervisor
        self.now, self.up, self.says = 1000.0, False, Standing.ACCEPTED
        self.conditions = Conditions()
        self.watchdog = Watchdog(
            settings,
            connected=lambda pid: self.up,
            standing=lambda: self.says,
            conditions=self.conditions,
            clock=lambda: self.now,
        )

    def turns(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now <= until:
            self.watchdog.look(self.supervisor)
            self.now += LOOK_S

    def said(self) -> str | None:
        return self.conditions.all()[CONDITION].why

    def killed(self) -> bool:
        process = self.supervisor._all["supernode"].process
        assert process is not None
        try:
            return process.wait(0.5) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False


@pytest.fixture
def site():
    supervisor = Supervisor([Child("supernode", SLEEP)])
    supervisor.step()
    yield Site(supervisor)
    supervisor.stop_children()


def test_a_supernode_without_a_connection_is_killed_after_a_while_and_not_before(site):
    site.up = True
    site.turns(2 * LOOK_S)
    site.up = False
    site.turns(PATIENCE.connection_s - 2 * LOOK_S)
    assert not site.killed()
    site.turns(ASK_S + PATIENCE.connection_s + LOOK_S)
    assert site.killed()


def test_nothing_is_killed_while_the_coordinator_is_away_however_long_that_is(site):
    """An executor that trains would lose its message."""
    site.up = True
    site.turns(2 * LOOK_S)
    site.up, site.says = False, Standing.AWAY
    site.turns(100 * PATIENCE.connection_s)
    assert not site.killed()
    assert site.said() == "the coordinator does not answer at x:1"


def test_a_supernode_has_its_time_again_once_the_coordinator_is_back(site):
    site.up = True
    site.turns(2 * LOOK_S)
    site.up, site.says = False, Standing.AWAY
    site.turns(600.0)
    site.says = Standing.ACCEPTED
    site.turns(PATIENCE.connection_s - LOOK_S)
    assert not site.killed()
    site.turns(ASK_S + 3 * LOOK_S)
    assert site.killed()


def test_a_supernode_that_has_never_been_connected_has_the_time_that_a_busy_machine_takes_to_start_it(site):
    site.turns(PATIENCE.start_s - LOOK_S)
    assert not site.killed()
    site.turns(3 * LOOK_S)
    assert site.killed()


def test_a_connection_that_comes_back_in_time_is_forgiven(site):
    for _ in range(5):
        site.up = False
        site.turns(PATIENCE.connection_s - 2 * LOOK_S)
        site.up = True
        site.turns(LOOK_S)
    assert not site.killed()
    assert site.said() is None


def test_a_new_process_has_its_own_time(site):
    for _ in range(3):
        site.turns(PATIENCE.start_s - 2 * LOOK_S)
        assert not site.killed()
        site.supervisor.stop_children()
        site.supervisor._all["supernode"].next_start = 0.0
        site.supervisor.step()
        site.supervisor._all["supernode"].next_start = 0.0
        site.supervisor.step()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Standing.AWAY, "does not answer at x:1"),
        (Standing.UNKNOWN, "does not accept this site's key"),
        (Standing.WRONG_TIME, "timedatectl set-ntp"),
        (Standing.ACCEPTED, "no connection"),
    ],
)
def test_a_site_without_a_coordinator_says_so_and_why(site, says, words):
    site.says = says
    site.turns(SAY_S + 2 * LOOK_S)
    assert words in site.said()


def test_a_connection_to_a_coordinator_that_is_frozen_is_seen_through(site):
    site.up, site.says = True, Standing.AWAY
    site.turns(330.0)
    assert "does not answer" in site.said()
    assert not site.killed()


def test_the_agent_of_a_revoked_site_says_so_at_once_and_stops_when_it_stays_so(site):
    site.says = Standing.UNKNOWN
    site.turns(ASK_S + LOOK_S)
    assert "revoked" in site.said()
    assert not site.watchdog.is_revoked
    site.turns(PATIENCE.revoked_s - 2 * ASK_S)
    assert not site.watchdog.is_revoked
    site.turns(2 * ASK_S)
    assert site.watchdog.is_revoked
    assert site.supervisor._stopping


def test_one_answer_alone_stops_no_agent_however_short_its_patience(site):
    """A coordinator whose SuperLink was up and had not yet registered its sites: the site asked in that moment."""
    short = PATIENCE.model_copy(update={"revoked_s": LOOK_S})
    site = Site(site.supervisor, SETTINGS.model_copy(update={"patience": short}))
    site.says = Standing.UNKNOWN
    site.turns(ASK_S + 2 * LOOK_S)
    assert "revoked" in site.said()
    assert not site.watchdog.is_revoked
    site.says = Standing.ACCEPTED
    site.turns(2 * ASK_S)
    assert not site.watchdog.is_revoked
    site.says = Standing.UNKNOWN
    site.turns(3 * ASK_S)
    assert site.watchdog.is_revoked


def test_a_key_that_is_accepted_again_in_time_is_no_reason_to_stop(site):
    """The SuperLink had lost its database, and was told again."""
    for _ in range(5):
        site.says = Standing.UNKNOWN
        site.turns(PATIENCE.revoked_s - 3 * ASK_S)
        site.says = Standing.ACCEPTED
        site.turns(2 * ASK_S)
    assert not site.watchdog.is_revoked


@pytest.mark.parametrize(
    ("code", "said", "standing"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "Invalid heartbeat interval.", Standing.ACCEPTED),
        (grpc.StatusCode.FAILED_PRECONDITION, "Failed to activate SuperNode.", Standing.UNKNOWN),
        (grpc.StatusCode.UNAUTHENTICATED, NOT_APPROVED, Standing.UNKNOWN),
        (grpc.StatusCode.UNAUTHENTICATED, WRONG_TIME, Standing.WRONG_TIME),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", Standing.AWAY),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", Standing.AWAY),
        (grpc.StatusCode.INTERNAL, "?", Standing.UNSURE),
    ],
)
def test_how_a_call_is_refused_says_how_the_site_stands(code, said, standing):
    assert meaning(code, said) is standing


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
