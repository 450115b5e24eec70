"""Messages one at a time: each is answered, or discarded, before a SuperNode receives the next.

Flower 1.39 means to do so, and waits for *an* answer after each message. When a run ends while its message is on the
way, that message's task stays, and so may its answer: from then on the answer that follows a message is the one before
it, and the site is late in every round until its agent is started again. And where a message cannot be received, Flower
ends the task, and with it the process that has just begun to read it.

Here a message that was not received whole is taken back, its task is left to the executor, which finds it gone; a task
that ends before its message was read is answered with an error; and the next message is received when every task is
over and every answer sent. The private names of Flower's are in this file alone; where they are
not as they are here, the SuperNode does not start.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Error, Message

LOOP = "flwr.supernode.start_client_internal"
TAKEN = {
    "_pull_and_store_message": {"state", "object_store", "receive"},
    "_push_messages": {"state", "object_store"},
    "_insert_message": {"msg", "state", "store"},
}
NOT_READ = Error(code=8, reason="the executor ended before it read its message")
"""An error answer, with Flower's code for a ClientApp that crashed."""
UNFINISHED = ("pending", "starting", "running")
LOOK_S = 0.1


def take_turns() -> None:
    """Make Flower's loop receive and send as described above."""
    loop = importlib.import_module(LOOP)
    for name, parameters in TAKEN.items():
        if not hasattr(loop, name) or not parameters <= set(inspect.signature(getattr(loop, name)).parameters):
            raise RuntimeError(f"flwr receives its messages differently than expected: {name} cannot be watched")
    pull, push = loop._pull_and_store_message, loop._push_messages

    def receive_whole(*, state: Any, object_store: Any, receive: Callable[[], Any], **others: Any) -> int | None:
        begun: list[str] = []

        def noted() -> Any:
            found = receive()
            begun.extend([] if found is None else [found[0].metadata.message_id])
            return found

        run: int | None = pull(state=Keeping(state), object_store=object_store, receive=noted, **others)
        if run is None:
            state.delete_messages(message_ids=begun)
            for message in begun:
                object_store.delete(message)
        return run

    def answer_all(*, state: Any, object_store: Any, **others: Any) -> None:
        while True:
            at_work = state.get_tasks(statuses=UNFINISHED)  # before the answers: one may come when its task ends
            if replies := state.get_messages(is_reply=True):
                push(state=Holding(state, replies), object_store=object_store, **others)
            elif at_work:
                time.sleep(LOOK_S)
            elif unread := state.get_messages(is_reply=False):  # their tasks ended before anybody read them
                for message in unread:
                    loop._insert_message(Message(NOT_READ, reply_to=message), state, object_store)
                    object_store.delete(message.metadata.message_id)
            else:
                return

    vars(loop).update(_pull_and_store_message=receive_whole, _push_messages=answer_all)


class Seen:
    """A SuperNode's state, as one of Flower's functions is to see it."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)


class Keeping(Seen):
    """A task is finished by the executor alone: the end of one that it is at would end its process."""

    def finish_task(self, *_: object, **__: object) -> bool:
        return True


class Holding(Seen):
    """With these answers, which were taken out."""

    def __init__(self, state: Any, replies: Sequence[Any]) -> None:
        super().__init__(state)
        self._replies = replies

    def get_messages(self, *_: object, **__: object) -> Sequence[Any]:
        return self._replies
