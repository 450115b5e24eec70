"""Which rows a step takes, without privacy: under it every row is drawn by chance, by itself.

    steps, fresh       a shuffled epoch of the round's own, from its start; another where it is used up
    steps, continue    the client's epochs one after the other; round r begins at row (r - 1) · steps · batch
    local_epochs       shuffled epochs of the round's own, every one whole, its last batch as small as is left

Nothing is kept between rounds: a client that missed one goes on where the others are, and a round that is repeated has
the same rows. With `continue` a client sees each of its rows once before any twice, if it is asked in every round and
its rows stay; the rows of a missed round come with the next epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from client.steps.turn import Turn
from fedlora.config import TrainSettings


def batches_of(settings: TrainSettings, examples: int, turn: Turn) -> list[list[int]]:
    """The rows of every step of a round, by index."""
    size = settings.batch_size
    if settings.local_epochs is not None:
        return list(whole_epochs(examples, size, settings.local_epochs, turn.stream("batches")))
    if settings.order == "continue":
        return list(continued_batches(examples, size, settings.counted_steps, turn))
    return list(shuffled_batches(examples, size, settings.counted_steps, turn.stream("batches")))


def shuffled_batches(examples: int, size: int, steps: int, stream: torch.Generator) -> Iterator[list[int]]:
    """`steps` batches of `size` indices (or all, where there are fewer), epoch after epoch in fresh orders.

    >>> [len(batch) for batch in shuffled_batches(5, 2, 4, torch.Generator().manual_seed(0))]
    [2, 2, 2, 2]
    """
    waiting: list[int] = []
    size = min(size, examples)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = torch.randperm(examples, generator=stream).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def continued_batches(examples: int, size: int, steps: int, turn: Turn) -> Iterator[list[int]]:
    """The same number of batches, from where the rounds before have ended; one may reach from an epoch into the next.

    >>> first, second = (Turn(0, "a", number, 2) for number in (1, 2))
    >>> sorted(sum([*continued_batches(6, 3, 1, first), *continued_batches(6, 3, 1, second)], []))
    [0, 1, 2, 3, 4, 5]
    """
    size = min(size, examples)
    epoch, place = divmod((turn.number - 1) * steps * size, examples)
    rows = itertools.chain.from_iterable(
        torch.randperm(examples, generator=turn.epoch(number)).tolist() for number in itertools.count(epoch)
    )
    going_on = itertools.islice(rows, place, None)
    for _ in range(steps):
        yield list(itertools.islice(going_on, size))


def whole_epochs(examples: int, size: int, epochs: int, stream: torch.Generator) -> Iterator[list[int]]:
    """Batches of `size` indices that are all of them, `epochs` times over.

    >>> [len(batch) for batch in whole_epochs(5, 2, 2, torch.Generator().manual_seed(0))]
    [2, 2, 1, 2, 2, 1]
    """
    for _ in range(epochs):
        order = torch.randperm(examples, generator=stream)
        yield from (batch.tolist() for batch in torch.split(order, size))
