"""Checkpoints of a base that has moved: the same state bit for bit, no larger than what is kept of it."""

from __future__ import annotations

import pytest
import torch

from fedlora.lowrank import is_identity
from server.record.checkpoint import Progress, read, write
from strategies.base import State
from strategies.registry import named
from strategies.versions import moved, numbers
from tests.strategies.examples import built, start, updates_for


def progress(name: str, rounds: int) -> Progress:
    strategy = built(name)
    state = start(strategy)
    for number in range(1, rounds + 1):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
    return Progress("run", rounds, state)


def everything(state: State) -> dict[str, torch.Tensor]:
    parts = {"past": state.past, **{str(index): residual for index, residual in enumerate(state.residuals)}}
    factors = {f"{part}/{name}": p for part, residual in parts.items() for name, p in residual.items()}
    sides = {f"{key}/{side}": getattr(p, side) for key, p in factors.items() for side in ("U_mp", "V_pn")}
    return {**state.adapter.tensors(), **sides}


@pytest.mark.parametrize("name", named(moves_base=True))
@pytest.mark.parametrize("rounds", [0, 1, 7])
def test_a_moved_base_is_read_as_it_was_written(tmp_path, name, rounds):
    path, before = tmp_path / "checkpoint.safetensors", progress(name, rounds)
    write(path, before, recipe={})
    after = read(path, recipe={})
    assert (after.state.merged, after.state.base_version) == (before.state.merged, rounds)
    assert (before.state.merged > 0) == (rounds == 7)
    kept, found = everything(before.state), everything(after.state)
    assert kept.keys() == found.keys()
    assert all(torch.equal(tensor, found[key]) for key, tensor in kept.items())


def test_an_identity_is_not_written(tmp_path):
    path, given = tmp_path / "checkpoint.safetensors", progress("flora", 9)
    assert is_identity(given.state.past["square"].V_pn)
    write(path, given, recipe={})
    state = given.state
    in_it = (
        numbers(state.past)
        + sum(map(numbers, state.residuals))
        + sum(map(torch.numel, state.adapter.tensors().values()))
    )
    assert path.stat().st_size < 8 * in_it + 8_000  # float64, and the header


def test_a_resumed_run_moves_its_base_on_as_one_that_was_never_stopped(tmp_path):
    path, strategy = tmp_path / "checkpoint.safetensors", built("fedex")
    before = progress("fedex", 5)
    write(path, before, recipe={})
    residual = before.state.residuals[-1]
    on, resumed = (moved(state, residual) for state in (before.state, read(path, recipe={}).state))
    assert strategy.traits.moves_base
    assert all(torch.equal(tensor, everything(resumed)[key]) for key, tensor in everything(on).items())
