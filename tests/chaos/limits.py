"""A limit of the kernel on processes that already run, and on those that they start meanwhile; then as before."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def limited(pids: Callable[[], Iterable[int]], what: int, most: int) -> Iterator[Callable[[], bool]]:
    """Gives a question: whether the kernel says that it is in force. What they were allowed is what this process is."""
    allowed = resource.getrlimit(what)[0]
    for pid in pids():
        set_soft(pid, what, most)

    def in_force() -> bool:
        found = [soft for pid in pids() if (soft := soft_limit(pid, what)) is not None]
        return bool(found) and all(soft == most for soft in found)

    try:
        yield in_force
    finally:
        for pid in pids():
            set_soft(pid, what, allowed)


def set_soft(pid: int, what: int, most: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        hard = resource.prlimit(pid, what)[1]
        if most == resource.RLIM_INFINITY:
            most = hard
        elif hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.prlimit(pid, what, (most, hard))


def soft_limit(pid: int, what: int) -> int | None:
    """None where the process is gone."""
    try:
        return resource.prlimit(pid, what)[0]
    except ProcessLookupError:
        return None
