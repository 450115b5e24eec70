"""A Grid whose `pull_messages` comes back soon, whatever a slow site is doing.

Flower shows an answer as soon as its sender has announced it, and `pull_messages` then waits until the last byte of it
is there: one site on a slow link would hold up every other answer and the round's deadline, and one that died in the
middle of its upload would do so for three minutes. Here a call that waits goes on in the background, and what it brings
is returned by a later call.

An answer is handed out once. While one call has it and waits for its bytes, another call that asks for it may be told
that there is no such message: that is believed only when the calls before it have ended without the answer.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run

log = logging.getLogger("fedlora.grid")

Calls = tuple[threading.Thread, ...]

PROMPT_S = 1.0
"""Longest time that one pull blocks the loop, in seconds."""


class PromptGrid(Grid):
    """`grid`, but prompt: an answer that is announced later is not delayed by one whose upload is still under way."""

    def __init__(self, grid: Grid, *, prompt_s: float = PROMPT_S) -> None:
        self._grid = grid
        self._prompt_s = prompt_s
        self._arrived: queue.SimpleQueue[tuple[Message, Calls]] = queue.SimpleQueue()
        self._failed: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self._calls: Calls = ()
        self._denied: list[tuple[Message, Calls]] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What is there by now, of this call and of earlier ones. Raises what a call has raised."""
        if self._arrived.empty():  # else what has just come would be asked for once more, and denied
            before = living(self._calls)
            call = threading.Thread(target=self._pull, args=(list(message_ids), before), name="pull", daemon=True)
            self._calls = (*before, call)
            call.start()
            call.join(self._prompt_s)
        if not self._failed.empty():
            raise self._failed.get()
        return self._take()

    def _pull(self, message_ids: list[str], before: Calls) -> None:
        try:
            for message in self._grid.pull_messages(message_ids):
                self._arrived.put((message, before))
        except Exception as error:
            self._failed.put(error)

    def _take(self) -> list[Message]:
        """Answers, and those denials that no call can refute any more, after them."""
        waiting = living(self._calls)  # looked at first: what a call that is over has brought is in the queue
        fresh = [self._arrived.get() for _ in range(self._arrived.qsize())]
        doubtful = [*self._denied, *((message, before) for message, before in fresh if is_denial(message))]
        self._denied = [(message, before) for message, before in doubtful if set(before) & set(waiting)]
        believed = [message for message, before in doubtful if not set(before) & set(waiting)]
        return [*(message for message, _ in fresh if not is_denial(message)), *believed]

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def living(calls: Calls) -> Calls:
    """The calls that are still waiting."""
    return tuple(call for call in calls if call.is_alive())


def is_denial(message: Message) -> bool:
    """Whether it says that there is no such message."""
    return message.has_error() and message.error.code == ErrorCode.MESSAGE_UNAVAILABLE
