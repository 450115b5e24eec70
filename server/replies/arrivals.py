"""Answers as they arrive: a pull loop with k-of-n, a deadline and a grace period.

Flower's `send_and_receive` waits for everybody and polls every 3 s; this yields each reply as soon as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from fedlora.settings import RunError


class MissingClientsError(RunError):
    """Fewer clients than a round needs connected in time."""


@dataclass(frozen=True)
class Deadlines:
    """How long a round waits. Once `quorum` valid updates are in, only `grace_s` more."""

    quorum: float
    """Updates from which on the grace period runs; infinite: only all of them, or the deadline, end a round."""
    deadline_s: float
    grace_s: float
    poll_s: float = 0.2


@runtime_checkable
class OwnClock(Protocol):
    """A grid whose time is not the wall's: simulated clients work one after the other, and would be waited for together
    (`simulations.local_grid`)."""

    def clock(self) -> float:
        """Seconds, from any beginning."""
        ...


def clock_of(grid: Grid) -> Callable[[], float]:
    return grid.clock if isinstance(grid, OwnClock) else time.monotonic


def push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send the messages; returns {message id: node id}, by which answers and failures are attributed."""
    listed = list(messages)  # Flower reads it twice
    ids = list(grid.push_messages(listed))
    return {message_id: message.metadata.dst_node_id for message_id, message in zip(ids, listed, strict=True)}


def arrivals(
    grid: Grid,
    asked: Iterable[str],
    deadlines: Deadlines,
    *,
    valid: Callable[[], int],
    clock: Callable[[], float] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Message]:
    """Yield the replies to `asked` (message ids) until all are in, or the deadline, or quorum plus grace, has passed.

    Time is the grid's own, or the wall's. `valid` says how many updates have been accepted so far: bad answers do not
    count towards the quorum. `meanwhile` is called at every poll; what it raises ends the round.
    """
    clock = clock or clock_of(grid)
    outstanding = dict.fromkeys(asked)  # in the order of sending: a simulation's sums do not depend on hashes
    started = clock()
    quorum_at: float | None = None
    while outstanding:
        meanwhile()
        replies = list(grid.pull_messages(list(outstanding)))
        for reply in replies:
            outstanding.pop(reply.metadata.reply_to_message_id, None)
            yield reply
        now = clock()
        if quorum_at is None and valid() >= deadlines.quorum:
            quorum_at = now
        if now - started >= deadlines.deadline_s or (quorum_at is not None and now - quorum_at >= deadlines.grace_s):
            return
        if outstanding and not replies:
            time.sleep(min(deadlines.poll_s, max(0.0, deadlines.deadline_s - (now - started))))


def wait_for_clients(
    grid: Grid,
    *,
    at_least: int,
    wait_s: float,
    poll_s: float = 1.0,
    waiting: Callable[[int, float], None],
    admits: Callable[[int], bool] = lambda node: True,
) -> list[int]:
    """The connected node ids that are admitted, sorted, once there are enough; MissingClientsError after `wait_s` s.

    `waiting(connected, seconds_left)` is called at every poll, so that nobody waits in silence.
    """
    started = time.monotonic()
    while True:
        nodes = sorted(node for node in grid.get_node_ids() if admits(node))
        left = wait_s - (time.monotonic() - started)
        if len(nodes) >= at_least:
            return nodes
        if left <= 0:
            raise MissingClientsError(
                f"{len(nodes)} of {at_least} clients connected within {wait_s:.0f} s; start the missing clients, "
                f"or lower rounds.min_clients (now {at_least}), or raise rounds.wait_s."
            )
        waiting(len(nodes), left)
        time.sleep(min(poll_s, left))
