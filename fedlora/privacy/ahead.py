"""A step's sample and noise, drawn for the next step while a GPU works on this one.

    step 1   draw 1 ─► gradients 1 on the device ─► release 1
                       draw 2 in a thread         ─► gradients 2 ─► release 2

Drawing takes a CPU 0.04 s for a million numbers, and a device waits for it otherwise. On a CPU nothing is ahead: it
would draw with what it computes with.

Guarantee: every step has a fresh stream of its own, from the same source, in the order of steps; its noise is used once
or never, and forgotten with the step. No more streams are taken than steps were charged, and none before the engine is
entered, which is after the charge. The sample and the noise of a step do not depend on when they are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlora.privacy.noise import Noise, Source


@dataclass(frozen=True)
class Draws:
    """What one step draws."""

    indices: Tensor
    noise: Noise
    """To be asked for the step's noise, once."""


Drawing = AbstractContextManager[Iterator[Draws]]
Sampled = Callable[[Noise], Tensor]


class Drawn:
    """A stream whose next `count` normal values are drawn already: asked for them it gives them away, and afterwards,
    or asked for anything else first, it goes on as the stream does."""

    def __init__(self, stream: Noise, count: int) -> None:
        self._stream = stream
        self._values: NDArray[np.float64] | None = stream.gaussian(count)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self._stream.uniform(count)

    def gaussian(self, count: int) -> NDArray[np.float64]:
        values, self._values = self._values, None
        return values if values is not None and len(values) == count else self._stream.gaussian(count)


def works_beside(device: torch.device) -> bool:
    """Whether gradients are computed where a thread of this process does not stand in their way."""
    return device.type != "cpu"


@contextmanager
def draws(
    source: Source, sampled: Sampled, count: int, *, steps: int, device: torch.device
) -> Iterator[Iterator[Draws]]:
    """The draws of `steps` steps, one after the other; `count`: how many values of noise each will ask for."""
    if not works_beside(device):
        yield (one_by_one(source, sampled) for _ in range(steps))
        return
    with ThreadPoolExecutor(1, "noise") as thread:
        yield one_ahead(source, sampled, count, steps, thread)


def one_by_one(source: Source, sampled: Sampled) -> Draws:
    stream = source.fresh()
    return Draws(sampled(stream), stream)


def one_ahead(source: Source, sampled: Sampled, count: int, steps: int, thread: ThreadPoolExecutor) -> Iterator[Draws]:
    """The thread draws for one step at a time, and only from the first step on."""

    def drawn() -> Draws:
        stream = source.fresh()
        return Draws(sampled(stream), Drawn(stream, count))

    if steps == 0:
        return
    coming = thread.submit(drawn)
    for left in range(steps - 1, -1, -1):
        ready = coming.result()
        if left:
            coming = thread.submit(drawn)
        yield ready
