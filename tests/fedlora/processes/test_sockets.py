"""A port counts as a process's own only when nobody else listens on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from fedlora.processes.sockets import OwnPort

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

LISTEN = """
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen(); print("listens", flush=True); sys.stdin.readline()
"""


def listener(port: int = 0) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen()
    return made


def test_a_port_is_lacking_until_its_process_listens_and_then_its_own():
    with listener() as probe:
        port = probe.getsockname()[1]
    own = OwnPort(port)
    assert own.lacks(os.getpid()) == f"nothing is listening on port {port} yet"
    with listener(port):
        assert own.lacks(os.getpid()) is None
        assert own.lacks(os.getpid()) is None
    assert own.lacks(os.getpid()) is not None


def test_another_process_that_listens_there_does_not_count_neither_alone_nor_beside():
    """Flower's Fleet API lets two processes listen on one port: connections go now to one, now to the other."""
    with listener() as ours:
        port = ours.getsockname()[1]
        command = [sys.executable, "-c", LISTEN, str(port)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "listens\n"
            assert "also used by another process" in str(OwnPort(port).lacks(os.getpid()))
            assert "also used by another process" in str(OwnPort(port).lacks(other.pid))
            ours.close()
            assert "also used by another process" in str(OwnPort(port).lacks(os.getpid()))
            assert OwnPort(port).lacks(other.pid) is None
            other.communicate("\n")


def test_a_process_that_has_just_died_is_said():
    assert OwnPort(1).lacks(2**22 - 1) is not None
