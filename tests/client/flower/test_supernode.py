"""A SuperNode that no longer receives or is no longer counted ends; a heartbeat that fails is only sent again."""

from __future__ import annotations

import importlib
import subprocess
import sys

import grpc
import pytest

from client.flower.supernode import CONNECTION, beat_on


class Refused(grpc.RpcError):
    """What a coordinator with a full disk answers."""


@pytest.fixture
def connection():
    found = importlib.import_module(CONNECTION)
    before = found.HeartbeatSender
    yield found
    found.HeartbeatSender = before


def test_a_heartbeat_that_is_answered_with_an_error_is_sent_again(connection):
    """With Flower's own the thread ended: the site stayed connected, and the coordinator never asked it again."""
    said = iter([Refused(), True])

    def heartbeat() -> bool:
        answer = next(said)
        if isinstance(answer, Refused):
            raise answer
        return answer

    beat_on()
    sender = connection.HeartbeatSender(heartbeat)
    assert (sender.heartbeat_fn(), sender.heartbeat_fn()) == (False, True)  # False: Flower tries again, and again


ENDS = {
    "the loop that receives": """
import threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
run_to_the_end(lambda: 1 / 0)
""",
    "a node that the coordinator does not know": """
import importlib, time
def heartbeat():
    raise RuntimeError("The SuperLink does not recognize this SuperNode.")
beat_on()
importlib.import_module(CONNECTION).HeartbeatSender(heartbeat).start()
time.sleep(600)
""",
}


@pytest.mark.parametrize("script", ENDS.values(), ids=ENDS)
def test_the_process_ends_with_what_makes_it_a_supernode(script):
    ended = subprocess.run(
        [sys.executable, "-c", "from client.flower.supernode import CONNECTION, beat_on, run_to_the_end\n" + script],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "Error" in ended.stderr  # said before it ends


@pytest.mark.parametrize(("ended", "status"), [("None", 0), ("0", 0), ("305 % 256", 49), ("'why'", 1)])
def test_its_exit_status_is_flowers(ended, status):
    script = (
        f"import sys; from client.flower.supernode import run_to_the_end; run_to_the_end(lambda: sys.exit({ended}))"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == status
