"""A slow upload delays its own answer and no other, and is not taken for lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from flwr.common.constant import ErrorCode

from server.replies.prompt_grid import PromptGrid


@dataclass(frozen=True)
class Reply:
    """As much of a Flower message as matters here."""

    to: str
    error: SimpleNamespace | None = None

    def has_error(self) -> bool:
        return self.error is not None


class SlowGrid:
    """As Flower's: an announced answer is handed out once, to the call that then waits for its bytes; when that call
    has them, the message is forgotten, and whoever asks for it then is told that there is none."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.whole = {"fast": threading.Event(), "slow": threading.Event()}
        self.whole["fast"].set()
        self.handed_over = threading.Event()
        self.handed_over.set()
        self.forgotten: list[str] = []

    def pull_messages(self, message_ids: list[str]) -> list[Reply]:
        denied = [denial(message) for message in message_ids if message in self.forgotten]
        mine = [message for message in self.announced if message in message_ids]
        self.announced = [message for message in self.announced if message not in mine]
        for message in mine:
            assert self.whole[message].wait(30)
            self.forgotten.append(message)
        if mine:
            assert self.handed_over.wait(30)
        return [*denied, *map(Reply, mine)]


def denial(message: str) -> Reply:
    return Reply(message, SimpleNamespace(code=ErrorCode.MESSAGE_UNAVAILABLE))


def until_found(grid: PromptGrid, *messages: str) -> list[Reply]:
    give_up, found = time.monotonic() + 30, []
    while not found and time.monotonic() < give_up:
        found = list(grid.pull_messages(messages))
    return found


@pytest.fixture
def slow():
    grid = SlowGrid()
    yield grid
    grid.whole["slow"].set()
    grid.handed_over.set()


def test_an_answer_that_is_announced_later_is_not_held_up(slow):
    grid = PromptGrid(slow, prompt_s=0.1)
    slow.announced = ["slow"]
    assert grid.pull_messages(["slow", "fast"]) == []
    slow.announced = ["fast"]
    assert grid.pull_messages(["slow", "fast"]) == [Reply("fast")]
    assert grid.pull_messages(["slow"]) == []


def test_the_slow_answer_comes_with_a_later_call(slow):
    grid = PromptGrid(slow, prompt_s=0.1)
    slow.announced = ["slow"]
    assert grid.pull_messages(["slow"]) == []
    slow.whole["slow"].set()
    assert until_found(grid, "slow")[0] == Reply("slow")  # a denial may follow it: the intake takes the first answer


def test_an_answer_that_another_call_is_about_to_bring_is_not_denied(slow):
    grid = PromptGrid(slow, prompt_s=0.1)
    slow.announced = ["slow"]
    slow.handed_over.clear()
    assert grid.pull_messages(["slow"]) == []
    slow.whole["slow"].set()
    while not slow.forgotten:
        time.sleep(0.01)
    assert grid.pull_messages(["slow"]) == []  # Flower says now that there is no such message
    slow.handed_over.set()
    assert until_found(grid, "slow")[0] == Reply("slow")


def test_a_message_that_no_call_can_bring_is_denied(slow):
    slow.forgotten = ["slow"]
    assert PromptGrid(slow, prompt_s=30).pull_messages(["slow"]) == [denial("slow")]


def test_an_answer_that_is_whole_comes_at_once(slow):
    slow.announced = ["fast"]
    assert PromptGrid(slow, prompt_s=30).pull_messages(["fast"]) == [Reply("fast")]


def test_what_a_call_raises_is_raised():
    class Broken:
        def pull_messages(self, message_ids: list[str]) -> list[Reply]:
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        PromptGrid(Broken(), prompt_s=30).pull_messages(["a"])
