"""Flower's own loop, state and store between a coordinator and an executor that are this file's."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable

import pytest
from flwr.app import ConfigRecord, Message, Metadata, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.nodestate import NodeStateFactory

from client.flower import turns
from client.flower.turns import LOOP, TAKEN, UNFINISHED, take_turns


@pytest.fixture
def loop():
    found = importlib.import_module(LOOP)
    before = {name: getattr(found, name) for name in TAKEN}
    take_turns()
    yield found
    vars(found).update(before)


def whole(message: Message) -> None:
    """The coordinator's answer to a site that has a message."""


def ended(message: Message) -> None:
    raise RunNotRunningException


class Site:
    """A SuperNode's memory, with a coordinator before it (what `sent` holds has reached it) and an executor behind."""

    def __init__(self, loop) -> None:
        self.loop = loop
        factory = NodeStateFactory(ObjectStoreFactory())
        self.state, self.store = factory.state(), factory.objectstore_factory.store()
        self.state.set_node_id(7)
        self.sent: list[str] = []
        self.errors: list[int] = []
        for run in (1, 2):
            known = Run.create_empty(run)
            self.state.store_run(known)

    def message(self, run: int, say: str) -> Message:
        metadata = Metadata(run, "", 1, 7, "", "", time.time(), 3600.0, "train")
        made = Message(metadata=metadata, content=RecordDict({"c": ConfigRecord({"say": say})}))
        made.metadata.__dict__["_message_id"] = made.object_id
        return made

    def receive(
        self,
        message: Message,
        *,
        confirm: Callable[[Message], None] = whole,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> int | None:
        """One turn of the loop's first half; `meanwhile` happens when all of the message is there."""
        objects = {name: value.deflate() for name, value in get_all_nested_objects(message).items()}

        def confirmed(run: int, name: str) -> None:
            meanwhile()
            confirm(message)

        found = message, get_object_tree(message)
        return self.loop._pull_and_store_message(
            state=self.state, object_store=self.store, node_config={}, trusted_entities=None, get_run=None,
            get_fab=None, receive=lambda: found, pull_object=lambda run, name: objects[name],
            confirm_message_received=confirmed,
        )  # fmt: skip

    def send(self) -> None:
        """One turn of the second half."""

        def send(message: Message, tree: object, seconds: float) -> tuple[set[str], str]:
            self.sent.append(message.metadata.reply_to_message_id)
            self.errors += [message.error.code] if message.has_error() else []
            return set(), ""

        self.loop._push_messages(state=self.state, object_store=self.store, send=send, push_object=lambda *_: None)

    def take(self) -> tuple[int, Message | None]:
        """What an executor does first."""
        (task,) = self.state.get_tasks(statuses=["pending"])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        message = next(iter(self.state.get_messages(run_ids=[task.run_id], is_reply=False, limit=1)), None)
        if message is not None:
            self.state.record_message_processing_start(message_id=message.metadata.message_id)
            self.store.delete(message.metadata.message_id)
        return task.task_id, message

    def answer(self, task: int, message: Message) -> None:
        """What it does last."""
        reply = Message(message.content, reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        self.state.record_message_processing_end(message_id=reply.metadata.reply_to_message_id)
        session = self.state.start_session(reply.metadata.run_id)
        stored, names = self.state.store_message_and_object_tree(reply, get_object_tree(reply), session)
        assert stored
        for name in names:
            self.store.put(name, get_all_nested_objects(reply)[name].deflate())
        assert self.state.finish_task(task, SubStatus.COMPLETED, "")

    def answer_soon(self) -> None:
        """The executor takes what is there, and answers while the loop waits."""
        threading.Timer(0.3, self.answer, self.take()).start()


def test_an_answer_to_a_run_that_has_ended_does_not_take_the_place_of_those_after_it(loop):
    """With Flower's own, one answer was left over: from then on a site's answer was sent when its next task came."""
    site = Site(loop)
    taken = []
    first, second, third = site.message(1, "first"), site.message(2, "second"), site.message(2, "third")
    assert site.receive(first, confirm=ended, meanwhile=lambda: taken.append(site.take())) is None
    site.answer(*taken[0])  # it had read all of it
    for message in (second, third):
        assert site.receive(message) == 2
        site.answer_soon()
        site.send()
        assert site.sent[-1] == message.object_id
    assert site.sent == [first.object_id, second.object_id, third.object_id]


def test_a_message_that_was_not_received_whole_is_gone_for_the_executor(loop):
    """With Flower's own, the executor waited two hours for the rest of it."""
    site = Site(loop)
    assert site.receive(site.message(1, "first"), confirm=ended) is None
    task, message = site.take()
    assert message is None  # nothing to wait for: it says so, and takes the next
    assert len(site.store) == 0
    assert site.state.finish_task(task, SubStatus.FAILED, "internal-error")
    second = site.message(2, "second")
    assert site.receive(second) == 2
    site.answer_soon()
    site.send()
    assert site.sent == [second.object_id]


def test_the_next_message_is_received_when_a_task_without_its_message_is_over_too(loop):
    site = Site(loop)
    assert site.receive(site.message(1, "first"), confirm=ended) is None
    stale, _ = site.take()
    second = site.message(2, "second")
    assert site.receive(second) == 2
    site.answer_soon()
    begun = time.monotonic()
    threading.Timer(1.0, site.state.finish_task, [stale, SubStatus.FAILED, "internal-error"]).start()
    site.send()
    assert time.monotonic() - begun >= 1.0
    assert site.sent == [second.object_id]
    assert not site.state.get_tasks(statuses=UNFINISHED)


def test_a_task_that_ends_before_its_message_is_read_is_answered_and_leaves_nothing_to_the_next(loop):
    """A kill, or no memory, between the two calls: the next task would have been given this one's message."""
    site, first, second = (made := Site(loop)), made.message(2, "first"), made.message(2, "second")
    assert site.receive(first) == 2
    (task,) = site.state.get_tasks(statuses=["pending"])
    assert site.state.claim_task(task.task_id)
    assert site.state.activate_task(task.task_id)
    assert site.state.finish_task(task.task_id, SubStatus.FAILED, "internal-error")
    site.send()
    assert (site.sent, site.errors) == ([first.object_id], [ErrorCode.CLIENT_APP_CRASHED])
    assert site.receive(second) == 2
    site.answer_soon()
    site.send()
    assert site.sent == [first.object_id, second.object_id]
    assert len(site.store) == 0


def test_an_answer_that_comes_as_its_task_ends_is_sent(loop):
    site = Site(loop)
    message = site.message(2, "first")
    assert site.receive(message) == 2
    task = site.take()
    look, answered = site.state.get_messages, []

    def between(**asked: object) -> object:
        found = look(**asked)
        if asked.get("is_reply") and not answered:
            answered.append(site.answer(*task))
        return found

    site.state.get_messages = between
    site.send()
    assert site.sent == [message.object_id]


def test_a_cut_link_leaves_the_task_to_the_executor_which_a_finished_one_would_end(loop):
    site = Site(loop)

    def cut(message: Message) -> None:
        raise ConnectionError("cut")

    assert site.receive(site.message(1, "first"), confirm=cut) is None
    assert [task.status.status for task in site.state.get_tasks()] == ["pending"]


@pytest.mark.parametrize("name", TAKEN)
def test_a_flower_that_receives_in_another_way_does_not_start(monkeypatch, name):
    loop = importlib.import_module(LOOP)
    monkeypatch.setattr(loop, name, lambda other: None)
    with pytest.raises(RuntimeError, match=name):
        turns.take_turns()
