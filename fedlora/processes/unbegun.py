"""A process in which a thread could not start ends, so that its supervisor starts another.

`Thread.start` waits until the new thread says that it runs. One that finds no memory for its first steps says nothing
(CPython 3.11 prints "Exception ignored in thread started by"), and its starter waits for ever, alive by every sign: a
site whose executor was short of memory for a moment answered nothing until somebody started it again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

LOOK_S = 2.0
LOOKS = 30
"""Checks in a row that must find the same start: after a stopped process continues, time jumps."""
STATUS = 70
START = threading.Thread.start.__code__


def end_where_a_thread_cannot_begin(*, look_s: float = LOOK_S, looks: int = LOOKS) -> None:
    """From now on this process ends with status 70 where a thread has waited for another's beginning for so long."""
    threading.Thread(target=_watch, args=(look_s, looks), name="unbegun", daemon=True).start()


def _watch(look_s: float, looks: int) -> None:
    seen: dict[threading.Thread, int] = {}
    while True:
        time.sleep(look_s)
        with contextlib.suppress(MemoryError):  # it is short of it; later, then
            seen = {thread: seen.get(thread, 0) + 1 for thread in _beginning()}
            if max(seen.values(), default=0) >= looks:
                os.write(
                    2, b"a thread could not begin, for want of memory, and another waits for it: this process ends\n"
                )
                os._exit(STATUS)


def _beginning() -> Iterator[threading.Thread]:
    """Threads whose starters wait in `Thread.start`."""
    for top in sys._current_frames().values():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code is START:
                yield frame.f_locals["self"]
            frame = frame.f_back
