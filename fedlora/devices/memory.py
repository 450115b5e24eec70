"""How many examples are computed at once: as many as are asked for, and half as many, again and again, where memory
ends.

    asked 32 ─► 32 fails ─► 16 fails ─► 8 goes through: 8 from now on, and one line in the log

What goes through is kept for the process, for a model and a kind of work. A batch is the same sum in any pieces (up to
rounding), so that nothing but time depends on it: no charge, and no task.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Hashable
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedlora.devices.draws import draws_kept, on_cuda
from fedlora.processes.memory import ran_out_of_memory

log = logging.getLogger(__name__)

T = TypeVar("T")

_FITS: WeakKeyDictionary[nn.Module, dict[Hashable, int]] = WeakKeyDictionary()
"""What has gone through where more did not, by kind of work."""


def fitting(model: nn.Module, work: Hashable, *, asked: int) -> int:
    """How many examples of `asked` this process computes at once: all, unless so many did not fit before."""
    return min(asked, _FITS.get(model, {}).get(work, asked))


def with_what_fits(model: nn.Module, work: Hashable, attempt: Callable[[int], T], *, asked: int) -> T:
    """`attempt(size)` with the largest size of `asked`, its half, ..., 1 that memory is there for.

    A further attempt begins where the first began, in torch's random generators too; what else a failed one leaves
    behind is its own to take back. With one example at once the error is raised.
    """
    size = first = fitting(model, work, asked=asked)
    as_before = draws_kept()
    while True:
        try:
            found = attempt(size)
            break
        except Exception as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
        make_room()  # here, where the error no longer holds what was allocated
        as_before()
        size //= 2
    if size < first:
        _FITS.setdefault(model, {})[work] = size
        log.warning("too little memory for %d examples at once: from now on %d, with the same sums", first, size)
    return found


def make_room() -> None:
    """Give back what a failed attempt has left to torch's allocators."""
    gc.collect()
    if on_cuda():
        torch.cuda.empty_cache()
