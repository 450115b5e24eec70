"""Owners of TCP sockets, on Linux; elsewhere the answers are those of a machine without problems."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

ESTABLISHED, LISTENING = "01", "0A"  # include/net/tcp_states.h
SOCKET = re.compile(r"socket:\[(\d+)\]")
CONNECT_S = 2.0


@dataclass(frozen=True)
class Row:
    """A line of /proc/net/tcp."""

    port: int
    """This end's."""
    state: str
    inode: str


def accepts(host: str, port: int, *, timeout_s: float = CONNECT_S) -> bool:
    """Whether it is listening."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def connected(pid: int, *, own_port: int) -> bool:
    """Whether a process has a TCP connection that is not one to its own port; True where that cannot be seen."""
    if sys.platform != "linux":
        return True
    try:
        inodes, rows = inodes_of(pid), tcp_rows(pid)
    except OSError:  # it has just died, or is another user's
        return True
    return any(row.inode in inodes and row.state == ESTABLISHED and row.port != own_port for row in rows)


class OwnPort:
    """Whether a process, and nobody else, listens on a port. Remembers the socket, so that asking again is cheap."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: tuple[int, frozenset[str]] | None = None

    def lacks(self, pid: int) -> str | None:
        """What is missing, as text; None if the port belongs to that process alone."""
        if sys.platform != "linux":
            return None if accepts("127.0.0.1", self._port) else f"nothing is listening on port {self._port} yet"
        try:
            inodes = frozenset(r.inode for r in tcp_rows(pid) if r.state == LISTENING and r.port == self._port)
            if not inodes:
                return f"nothing is listening on port {self._port} yet"
            if self._known == (pid, inodes):
                return None
            others = inodes - inodes_of(pid)
        except OSError as error:  # it has just died
            return f"process {pid} cannot be inspected: {error.strerror}"
        if others:
            return f"port {self._port} is also used by another process; stop it, or choose another port (see: ss -ltnp)"
        self._known = (pid, inodes)
        return None


def inodes_of(pid: int) -> set[str]:
    """The sockets that a process holds. OSError if there is no such process, or it is another user's."""
    found = (SOCKET.fullmatch(_target(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return {match[1] for match in found if match}


def tcp_rows(pid: int) -> list[Row]:
    """The TCP sockets of a process's network, whoever's they are."""
    lines = [line.split() for table in ("tcp", "tcp6") for line in _table(pid, table)]
    return [Row(int(line[1].rpartition(":")[2], 16), line[3], line[9]) for line in lines]


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # closed meanwhile
        return ""


def _table(pid: int, name: str) -> list[str]:
    path = Path(f"/proc/{pid}/net/{name}")
    return path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []
