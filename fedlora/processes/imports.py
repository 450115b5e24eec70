"""Imports of all that a process needs, in less time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Meanwhile nothing is freed that only a garbage collection finds.

    Torch, transformers and PEFT make a million objects and hardly any garbage when they are imported: to look for it
    takes a sixth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
