"""Who is stopped (SIGSTOP), and by how many: a process goes on when the last of those who hold it lets it go.

A slow machine (`slowness.py`) stops and continues everybody in turn; it must not continue what a fault has stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Holds:
    """Counts by pid; may be used from several threads."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._lock = threading.Lock()

    def stop(self, pids: Iterable[int]) -> None:
        with self._lock:
            for pid in pids:
                self._counts[pid] = self._counts.get(pid, 0) + 1
                send(pid, signal.SIGSTOP)

    def let_go(self, pids: Iterable[int]) -> None:
        with self._lock:
            for pid in pids:
                self._counts[pid] = left = self._counts.get(pid, 1) - 1
                if left <= 0:
                    del self._counts[pid]
                    send(pid, signal.SIGCONT)

    @contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        self.stop(pids)
        try:
            yield
        finally:
            self.let_go(pids)


def send(pid: int, number: signal.Signals) -> None:
    """A process that is gone needs no signal."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
