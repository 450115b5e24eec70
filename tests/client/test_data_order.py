"""Which rows a client trains on, round after round: every round begins a shuffled epoch of its own, never the same."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from client import trainer
from client.training import shuffled_batches
from fedlora.randomness import generator
from simulations.run import prepare, simulate
from tests.chats import chat_recipe, save_chat_model, save_questions


def drawn(name: str, *, rounds: int, rows: int = 160, size: int = 4, steps: int = 3, seed: int = 0) -> list[list[int]]:
    """The rows of every round, one after the other, as `client.trainer` draws them."""
    streams = [generator(seed, "client", name, "round", number, "batches") for number in range(1, rounds + 1)]
    return [[*itertools.chain(*shuffled_batches(rows, size, steps, stream))] for stream in streams]


def test_every_round_begins_another_epoch_and_no_row_comes_twice_within_one():
    first, second, *_ = found = drawn("a", rounds=40)
    assert first != second
    assert all(len(set(rows)) == len(rows) == 12 for rows in found)
    assert drawn("a", rounds=1) != drawn("b", rounds=1)
    assert drawn("a", rounds=1) != drawn("a", rounds=1, seed=1)


def test_rounds_reach_all_rows_as_fast_as_chance_does():
    """40 rounds of 12 among 160 leave out 160 (1 - 12/160)^40 = 7 rows; the same epoch every round would leave 148."""
    seen = set().union(*drawn("a", rounds=40))
    assert 145 <= len(seen) <= 160
    assert len(set().union(*drawn("a", rounds=200))) == 160


def test_batches_that_are_more_than_an_epoch_see_every_row_before_any_comes_again():
    (rows,) = drawn("a", rounds=1, rows=12, size=4, steps=6)
    assert sorted(rows[:12]) == sorted(rows[12:]) == list(range(12))
    assert rows[:12] != rows[12:]


@pytest.fixture
def batches(monkeypatch) -> list[list[int]]:
    """Everything that clients draw while it is in use."""
    seen: list[list[int]] = []
    plain = trainer.train_adapter

    def watched(model: Any, parameters: Any, examples: Any, settings: Any, *, on: Any, stream: Any) -> float:
        copy = generator(0)
        copy.set_state(stream.get_state())
        seen.append([*itertools.chain(*shuffled_batches(len(examples), settings.batch_size, settings.steps, copy))])
        return plain(model, parameters, examples, settings, on=on, stream=stream)

    monkeypatch.setattr(trainer, "train_adapter", watched)
    return seen


def test_a_run_draws_them_so_and_one_that_is_continued_draws_the_same(tmp_path, batches):
    """A client that missed a round, or a coordinator that was killed, changes nobody's rows of a later one."""
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    longer, shorter = (chat_recipe(model, questions, f"rounds.count={count}") for count in (2, 1))
    simulate(prepare(longer), tmp_path / "whole", watch=lambda event: None)
    whole = list(batches)
    assert len(whole) == 8
    assert len(set(map(tuple, whole))) == 8
    batches.clear()
    simulate(prepare(shorter), tmp_path / "parts", watch=lambda event: None)
    simulate(prepare(longer), tmp_path / "parts", watch=lambda event: None, resume=True)
    assert batches == whole
