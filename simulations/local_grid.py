"""An in-process Flower Grid: the same ServerApp and ClientApp as in production, without processes or sockets.

As strict as the real one: messages must be a list, every message and reply is serialised and parsed again, an exception
in a client becomes an error reply. Clients run one after the other, when their reply is first asked for, so that the
loop streams and a thousand clients need the memory of one; with `several` a few of them run together. Bytes are counted
as Flower's objects put them on the wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity  # the one private import: Message() outside a Flower process

FIRST_NODE = 1000
CLIENT_APP_RAISED = 2


@dataclass(frozen=True)
class Fault:
    """A fault to inject into one message: it is dropped, the client fails, or the reply is late, damaged or doubled."""

    kind: Literal["drop", "error", "delay", "corrupt", "duplicate"]
    delay_s: float = 0.0
    corrupt: Callable[[Message], None] | None = None
    """For `corrupt`: changes the reply in place before it is serialised."""


Faults = Callable[[int, Message], Fault | None]


class Answering(Protocol):
    """Several clients' answers at once."""

    at_once: int
    """At most."""

    def __call__(self, messages: Sequence[tuple[Message, Context]]) -> list[Message]:
        """A reply to each, in order: no two are to one client. It raises nothing, as `client.round.answer` does."""
        ...


class LocalGrid(Grid):
    """A Grid of `nodes` clients that all run `client_app` in this process."""

    def __init__(
        self,
        client_app: ClientApp,
        *,
        nodes: int,
        run_config: Mapping[str, str | int | float | bool],
        run_id: int = 1,
        faults: Faults | None = None,
        several: Answering | None = None,
    ) -> None:
        self._client_app = client_app
        self._several = several
        self._faults = faults or (lambda node, message: None)
        self._contexts = {FIRST_NODE + index: _context(run_id, index, nodes, run_config) for index in range(nodes)}
        self._queue: dict[str, tuple[Message, Fault | None]] = {}
        self._ready: dict[str, tuple[float, list[Message]]] = {}
        self._run = Run.create_empty(run_id)
        self.bytes_up = 0
        self.bytes_down = 0
        self._busy_s = 0.0
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1

    def clock(self) -> float:
        """Seconds that the coordinator has waited: time in which clients work one after the other does not count.

        Real clients work side by side; deadlines and grace periods must not depend on how many are simulated.
        """
        return time.monotonic() - self._busy_s

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        if not isinstance(messages, list):
            raise TypeError("messages must be a list: Flower's own Grid reads them twice.")
        return [self._accept(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there; runs at most one client per call, or as many as run together."""
        wanted = list(message_ids)
        waiting = [message_id for message_id in wanted if message_id in self._queue]
        if waiting:
            self._answer(self._next(waiting))
        now = self.clock()
        due = [message_id for message_id in wanted if message_id in self._ready and self._ready[message_id][0] <= now]
        return [reply for message_id in due for reply in self._ready.pop(message_id)[1]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """For Flower's own strategies, which are the comparison in the benches."""
        ids = list(self.push_messages(list(messages)))
        replies: list[Message] = []
        give_up = self.clock() + (timeout if timeout is not None else 3600.0)
        while len(replies) < len(ids) and self.clock() < give_up:
            got = list(self.pull_messages(ids))
            replies += got
            if not got and not any(message_id in self._queue for message_id in ids):
                if not any(message_id in self._ready for message_id in ids):
                    break
                time.sleep(0.01)
        return replies

    def _accept(self, message: Message) -> str:
        delivered, size = _through_the_wire(message)
        self.bytes_down += size
        fault = self._faults(delivered.metadata.dst_node_id, delivered)
        if fault is None or fault.kind != "drop":
            self._queue[delivered.metadata.message_id] = (delivered, fault)
        return str(delivered.metadata.message_id)

    def _next(self, waiting: Sequence[str]) -> Sequence[str]:
        """The first, and those that run with it: of other clients, and none that is to fail."""
        if self._several is None or self._fails(waiting[0]):
            return waiting[:1]
        able = [message_id for message_id in waiting if not self._fails(message_id)]
        of_each = {self._queue[message_id][0].metadata.dst_node_id: message_id for message_id in reversed(able)}
        return list(reversed(of_each.values()))[: self._several.at_once]

    def _fails(self, message_id: str) -> bool:
        fault = self._queue[message_id][1]
        return fault is not None and fault.kind == "error"

    def _answer(self, message_ids: Sequence[str]) -> None:
        started = time.monotonic()
        asked = [self._queue.pop(message_id) for message_id in message_ids]
        replies = self._replies(asked)
        received = [_through_the_wire(_damaged(reply, fault)) for reply, (_, fault) in zip(replies, asked, strict=True)]
        self._busy_s += time.monotonic() - started
        for message_id, (reply, size), (_, fault) in zip(message_ids, received, asked, strict=True):
            self.bytes_up += size
            ready_at = self.clock() + (fault.delay_s if fault else 0.0)
            twice = fault is not None and fault.kind == "duplicate"
            self._ready[message_id] = (ready_at, [reply, reply] if twice else [reply])

    def _replies(self, asked: Sequence[tuple[Message, Fault | None]]) -> Sequence[Message]:
        if self._several is not None and len(asked) > 1:
            return self._several([(message, self._contexts[message.metadata.dst_node_id]) for message, _ in asked])
        return [self._reply(message, fault) for message, fault in asked]

    def _reply(self, message: Message, fault: Fault | None) -> Message:
        try:
            if fault is not None and fault.kind == "error":
                raise RuntimeError("injected fault")
            return self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # the contract of flwr-clientapp: an exception is an error reply
            return Message(Error(code=CLIENT_APP_RAISED, reason=type(error).__name__), reply_to=message)


def _damaged(reply: Message, fault: Fault | None) -> Message:
    if fault is not None and fault.corrupt is not None:
        fault.corrupt(reply)
    return reply


def run_apps(server_app: ServerApp, grid: LocalGrid, run_config: Mapping[str, str | int | float | bool]) -> None:
    """Run the ServerApp on the grid until it returns; its exceptions are the caller's."""
    context = Context(
        run_id=grid.run.run_id, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server_app(grid, context)


def _context(run_id: int, index: int, nodes: int, run_config: Mapping[str, str | int | float | bool]) -> Context:
    return Context(
        run_id=run_id,
        node_id=FIRST_NODE + index,
        node_config={"partition-id": index, "num-partitions": nodes},
        state=RecordDict(),
        run_config=dict(run_config),
    )


def _through_the_wire(message: Message) -> tuple[Message, int]:
    """Serialise and parse again; what cannot be serialised fails here too."""
    objects = {object_id: item.deflate() for object_id, item in get_all_nested_objects(message).items()}
    size = sum(len(content) for content in objects.values())
    parsed = inflate_object_from_contents(message.object_id, objects)  # empties `objects`
    if not isinstance(parsed, Message):
        raise TypeError(f"a message became a {type(parsed).__name__} on the wire")
    parsed.metadata.__dict__["_message_id"] = message.object_id
    return parsed, size
