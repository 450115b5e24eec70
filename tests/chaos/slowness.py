"""Holds a tree of processes to a share of one core: stopped when they have used it up, and continued in turn.

Control groups are not everywhere. A process that is stopped sees time leap when it goes on, as on a machine that is
that busy.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.chaos.holds import Holds

PERIOD_S = 0.5
"""They are continued when so long a period's share is theirs again."""
LOOK_S = 0.02
TICKS = os.sysconf("SC_CLK_TCK")
PARENT, CPU = 1, slice(11, 13)  # fields of /proc/PID/stat after the name; utime and stime


def tree(roots: Iterable[int]) -> list[int]:
    """The processes and all that descend from them, whichever is whose."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[PARENT]), []).append(int(folder.name))
    found, due = [], list(roots)
    while due:
        pid = due.pop()
        found.append(pid)
        due += children.get(pid, [])
    return found


def cpu_s(pids: Iterable[int]) -> dict[int, float]:
    """CPU seconds that each has used so far."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = sum(map(int, fields[CPU])) / TICKS
    return found


class Slowness:
    """While it is entered, the trees of `roots()` together get no more than `share` of a core."""

    def __init__(self, roots: Callable[[], Iterable[int]], *, share: float, holds: Holds | None = None) -> None:
        """`holds`: of all who stop some of these processes; none but this one when not given."""
        self._roots = roots
        self._holds = holds or Holds()
        self._share = share
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hold, name="slowness", daemon=True)
        self.used_s = 0.0

    def __enter__(self) -> Slowness:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _hold(self) -> None:
        pids = tree(self._roots())
        used, last, left_s, stopped = cpu_s(pids), time.monotonic(), 0.0, False
        while not self._over.is_set():
            time.sleep(LOOK_S)
            now, found = time.monotonic(), cpu_s(pids)
            spent_s = sum(found[pid] - used.get(pid, 0.0) for pid in found)
            left_s = min(left_s + self._share * (now - last), self._share * PERIOD_S) - spent_s
            used, last, self.used_s = {**used, **found}, now, self.used_s + spent_s
            if not stopped and left_s <= 0.0:
                pids, stopped = tree(self._roots()), True
                self._holds.stop(pids)
            elif stopped and left_s >= 0.9 * self._share * PERIOD_S:
                self._holds.let_go(pids)
                stopped = False
        if stopped:
            self._holds.let_go(pids)
