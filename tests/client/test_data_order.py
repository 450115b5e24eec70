"""Which rows a client trains on, round after round: every round begins a shuffled epoch of its own, never the same."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from client import training
from client.steps.order import batches_of
from client.steps.turn import Turn
from fedlora.config import TrainSettings
from simulations.run import prepare, simulate
from tests.chats import chat_recipe, save_chat_model, save_questions


def drawn(
    name: str, *, rounds: int, rows: int = 160, size: int = 4, steps: int = 3, seed: int = 0, **settings: Any
) -> list[list[int]]:
    """The rows of every round, one after the other, as `client.training` takes them."""
    train = TrainSettings(**{"batch_size": size, "steps": steps, **settings})
    turns = [Turn(seed, name, number, rounds) for number in range(1, rounds + 1)]
    return [[*itertools.chain(*batches_of(train, rows, turn))] for turn in turns]


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


def test_rounds_that_go_on_see_every_row_once_before_any_twice():
    """13 rounds of 12 are 156 of 160 rows, each another; the fourteenth ends the epoch and begins the next."""
    found = drawn("a", rounds=40, order="continue")
    flat = [*itertools.chain(*found)]
    for epoch in range(3):
        assert sorted(flat[160 * epoch : 160 * (epoch + 1)]) == list(range(160))
    assert flat[:160] != flat[160:320]
    assert found == drawn("a", rounds=40, order="continue"), "nothing is kept between rounds"
    assert found[:1] != drawn("b", rounds=1, order="continue") != drawn("b", rounds=1, order="continue", seed=1)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11, 12, 13])
def test_rounds_that_go_on_take_as_many_rows_as_others_however_few_there_are(rows):
    found = drawn("a", rounds=7, rows=rows, order="continue")
    assert [len(part) for part in found] == [len(part) for part in drawn("a", rounds=7, rows=rows)]
    counts = Counter(itertools.chain(*found))
    assert len(counts) == rows
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_round_of_epochs_goes_through_all_rows_each_time_in_another_order():
    first, second = drawn("a", rounds=2, rows=10, steps=None, local_epochs=2)
    assert sorted(first[:10]) == sorted(first[10:]) == sorted(second[:10]) == list(range(10))
    assert len({tuple(part) for part in (first[:10], first[10:], second[:10], second[10:])}) == 4


@pytest.fixture
def batches(monkeypatch) -> list[list[int]]:
    """Everything that clients draw while it is in use."""
    seen: list[list[int]] = []

    def watched(*given: Any) -> list[list[int]]:
        found = batches_of(*given)
        seen.append([*itertools.chain(*found)])
        return found

    monkeypatch.setattr(training, "batches_of", watched)
    return seen


@pytest.mark.parametrize("order", ["fresh", "continue"])
def test_a_run_draws_them_so_and_one_that_is_continued_draws_the_same(tmp_path, batches, order):
    """A client that missed a round, or a coordinator that was killed, changes nobody's rows of a later one."""
    model, questions = save_chat_model(tmp_path / "model"), save_questions(tmp_path / "questions.jsonl")
    longer, shorter = (
        chat_recipe(model, questions, f"rounds.count={count}", f"train.order={order}") for count in (2, 1)
    )
    simulate(prepare(longer), tmp_path / "whole", watch=lambda event: None)
    whole = list(batches)
    assert len(whole) == 8
    assert len(set(map(tuple, whole))) == 8
    batches.clear()
    simulate(prepare(shorter), tmp_path / "parts", watch=lambda event: None)
    simulate(prepare(longer), tmp_path / "parts", watch=lambda event: None, resume=True)
    assert batches == whole
