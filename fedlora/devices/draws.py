"""torch's own generators, the CPU's and every GPU's: what is drawn inside changes nothing outside.

`torch.manual_seed` sets those of all GPUs, whichever the model is on, so all of them are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def on_cuda() -> bool:
    """Whether this process computes there: asking otherwise would begin to."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch does not annotate it


def draws_kept() -> Callable[[], None]:
    """What sets torch's generators back to what they are now."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if on_cuda() else []

    def as_before() -> None:
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return as_before


@contextmanager
def draws_apart() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the generators are afterwards what they were."""
    as_before = draws_kept()
    try:
        yield
    finally:
        as_before()
