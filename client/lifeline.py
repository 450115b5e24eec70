"""Whether a SuperNode still speaks with its coordinator: one that does not is a process that only looks alive.

When the coordinator answers with an error that it does not expect (a locked database is enough), the loop of Flower's
SuperNode ends, and its process stays, because the server for its executor goes on. No exit, so nothing to restart.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedlora.supervise import Supervisor

log = logging.getLogger("fedlora.lifeline")

PATIENCE_S = 40.0
"""Without a connection for so long a SuperNode is started afresh; its own attempts to reconnect come sooner."""
START_S = 240.0
"""The same before its first connection: on a busy machine its imports alone take a minute."""
LOOK_S = 5.0
ESTABLISHED = "01"
SOCKET = re.compile(r"socket:\[(\d+)\]")


class Lifeline:
    """Kills the supervisor's `supernode` when it has had no connection for a while; called at every turn."""

    def __init__(
        self,
        connected: Callable[[int], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connected = connected
        self._clock = clock
        self._next = 0.0
        self._pid: int | None = None
        self._heard = 0.0
        self._patience_s = START_S

    def tick(self, supervisor: Supervisor) -> None:
        now = self._clock()
        if now < self._next:
            return
        self._next = now + LOOK_S
        pid = supervisor.pid("supernode")
        if pid is None or pid != self._pid:
            self._pid, self._heard, self._patience_s = pid, now, START_S
        elif self._connected(pid):
            self._heard, self._patience_s = now, PATIENCE_S
        elif now - self._heard > self._patience_s:
            log.warning("the SuperNode has no coordinator and does not try", extra={"seconds": self._patience_s})
            supervisor.kill("supernode")


def connected(pid: int, *, own_port: int) -> bool:
    """Whether a process has a TCP connection that is not one to its own port; True where that cannot be seen."""
    if sys.platform != "linux":
        return True
    try:
        inodes = {found[1] for fd in Path(f"/proc/{pid}/fd").iterdir() if (found := SOCKET.fullmatch(_target(fd)))}
        rows = [line.split() for table in ("tcp", "tcp6") for line in _table(pid, table)]
    except OSError:  # it has just died, or is another user's
        return True
    return any(
        row[9] in inodes and row[3] == ESTABLISHED and int(row[1].rpartition(":")[2], 16) != own_port for row in rows
    )


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # closed meanwhile
        return ""


def _table(pid: int, name: str) -> list[str]:
    path = Path(f"/proc/{pid}/net/{name}")
    return path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []
