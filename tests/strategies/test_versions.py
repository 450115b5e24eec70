"""What is kept of a moving base: bounded, however many rounds, and the sum of all that was ever added."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.lowrank import Product, dense_is_smaller
from strategies.base import Recipient
from strategies.registry import named
from strategies.versions import missing, moved, newest, numbers, total
from tests.strategies.examples import SHAPES, built, random_adapter, start, updates_for

ROUNDS = 12
MATRICES = sum(m * n for m, n in SHAPES.values())


def residual(seed: int, rank: int) -> dict[str, Product]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: Product(
            torch.randn(m, rank, generator=draw, dtype=torch.float64),
            torch.randn(rank, n, generator=draw, dtype=torch.float64),
        )
        for name, (m, n) in SHAPES.items()
    }


def history(rank: int):
    """The state after each version, and the slow clear twin: the sum of the matrices."""
    states = [built("fedex").init(random_adapter(0))]
    sums = [{name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}]
    for number in range(ROUNDS):
        added = residual(number, rank)
        states.append(moved(states[-1], added))
        sums.append({name: sums[-1][name] + product.dense() for name, product in added.items()})
    return states, sums


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_every_version_ends_where_the_sum_of_all_residuals_does(rank):
    """And nobody is sent more numbers than the matrices have."""
    states, sums = history(rank)
    whole, last = states[-1], sums[-1]
    assert whole.base_version == ROUNDS
    for held in (None, *range(ROUNDS + 1)):
        since, given = missing(whole, held)
        assert since in (0, held)
        assert numbers(given) <= MATRICES
        for name, wanted in last.items():
            reached = sums[since][name] + (given[name].dense() if given else 0.0)
            assert_close(reached, wanted, atol=1e-12, rtol=1e-12)
    assert missing(whole, ROUNDS) == (ROUNDS, {})


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_what_is_kept_does_not_grow_with_the_rounds(rank):
    states, _ = history(rank)
    for state in states:
        assert numbers(state.past) <= MATRICES
        assert sum(numbers(kept) for kept in state.residuals) <= MATRICES
        assert state.merged + len(state.residuals) == state.base_version
        assert state.residuals or state.base_version == 0, "the newest stays by itself, however large"
    assert states[-1].merged > 0
    assert states[1].merged == 0


def test_the_oldest_is_merged_when_single_residuals_have_more_numbers_than_the_matrices():
    """12 x 12, 14 x 6 and 5 x 16: 308 numbers; a residual of rank 2 has 2 · (24 + 20 + 21) = 130."""
    states, _ = history(2)
    assert MATRICES == 308
    assert numbers(residual(0, 2)) == 130
    assert [(state.merged, len(state.residuals)) for state in states[:5]] == [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)]
    assert [dense_is_smaller(rank, (12, 12)) for rank in (5, 6)] == [False, True]


def test_residuals_with_exactly_as_many_numbers_as_the_matrices_are_kept_one_by_one():
    """Ranks 3, 2 and 2: 3 · 24 + 2 · 20 + 2 · 21 = 154, half of 308; one number more is one too many."""
    half = {name: residual(0, rank)[name] for name, rank in (("square", 3), ("tall", 2), ("wide", 2))}
    state = moved(moved(built("fedex").init(random_adapter(0)), half), half)
    assert 2 * numbers(half) == MATRICES
    assert (state.merged, len(state.residuals)) == (0, 2)
    state = moved(state, {"square": residual(0, 1)["square"]})
    assert (state.merged, len(state.residuals)) == (1, 2)


def test_the_single_residual_of_a_merged_version_is_not_to_be_had():
    states, _ = history(2)
    with pytest.raises(
        ValueError, match="residuals up to version 10 are merged, but those after version 3 were requested"
    ):
        newest(states[-1], 3)


def test_a_version_that_was_never_made_is_sent_everything():
    """A site restored from another run's backup, say: its coordinator does not know what it holds."""
    states, _ = history(1)
    since, given = missing(states[2], 7)
    assert since == 0
    assert given.keys() == total(states[2]).keys()


@pytest.mark.parametrize("name", named(moves_base=True))
def test_fifty_rounds_are_kept_in_the_room_of_two(name):
    strategy = built(name)
    state = start(strategy)
    for number in range(1, 51):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
    assert numbers(state.past) + sum(map(numbers, state.residuals)) <= 2 * MATRICES
    assert numbers(strategy.broadcast(state, Recipient("newcomer")).residual) <= MATRICES
