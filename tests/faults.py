"""A step that fails on purpose: the n-th thing that an act does to the disk, and then no other."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Killed(BaseException):
    """As kill -9 is to a process: nothing that the code would do about an error is the point."""


def full() -> OSError:
    """What a full disk answers."""
    return OSError(errno.ENOSPC, "No space left on device")


def at_every_step(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], fault: Callable[[], BaseException]
) -> Iterator[int]:
    """Do `act` again and again, and let it fail at its first, second, ... write, sync and rename; ends when it has come
    to its end. Yields the number of the step, after the fault."""
    step = 0
    while True:
        step += 1
        with monkeypatch.context() as patch:
            left = [step]
            _count(patch, left, fault)
            with contextlib.suppress(OSError, Killed):
                act()
            reached = left[0] <= 0
        if not reached:
            return
        yield step


def _count(patch: pytest.MonkeyPatch, left: list[int], fault: Callable[[], BaseException]) -> None:
    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                raise fault()
            return real(*arguments, **options)

        return step

    for owner, name in ((os, "fsync"), (os, "open"), (Path, "replace"), (Path, "unlink")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
