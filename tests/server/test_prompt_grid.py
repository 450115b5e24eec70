"""A slow upload delays its own answer and no other."""

from __future__ import annotations

import threading
import time

import pytest

from server.prompt_grid import PromptGrid


class SlowGrid:
    """As Flower's: an announced answer is handed out once, to the call that then waits for its bytes."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.whole = {"fast": threading.Event(), "slow": threading.Event()}
        self.whole["fast"].set()

    def pull_messages(self, message_ids: list[str]) -> list[str]:
        mine = [message for message in self.announced if message in message_ids]
        self.announced = [message for message in self.announced if message not in mine]
        for message in mine:
            assert self.whole[message].wait(30)
        return mine


@pytest.fixture
def slow():
    grid = SlowGrid()
    yield grid
    grid.whole["slow"].set()


def test_an_answer_that_is_announced_later_is_not_held_up(slow):
    grid = PromptGrid(slow, prompt_s=0.1)
    slow.announced = ["slow"]
    assert grid.pull_messages(["slow", "fast"]) == []
    slow.announced = ["fast"]
    assert grid.pull_messages(["slow", "fast"]) == ["fast"]
    assert grid.pull_messages(["slow"]) == []


def test_the_slow_answer_comes_with_a_later_call(slow):
    grid = PromptGrid(slow, prompt_s=0.1)
    slow.announced = ["slow"]
    assert grid.pull_messages(["slow"]) == []
    slow.whole["slow"].set()
    give_up, found = time.monotonic() + 30, []
    while not found and time.monotonic() < give_up:
        found = list(grid.pull_messages(["slow"]))
    assert found == ["slow"]


def test_an_answer_that_is_whole_comes_at_once(slow):
    slow.announced = ["fast"]
    assert PromptGrid(slow, prompt_s=30).pull_messages(["fast"]) == ["fast"]


def test_what_a_call_raises_is_raised():
    class Broken:
        def pull_messages(self, message_ids: list[str]) -> list[str]:
            raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        PromptGrid(Broken(), prompt_s=30).pull_messages(["a"])
