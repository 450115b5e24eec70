"""What a site's optimiser remembers between rounds: where it goes on, and where it begins afresh."""

from __future__ import annotations

import pytest
import torch

from client.state.moments import Moments
from client.steps.optimizer import state_of, with_state
from fedlora.files import write_atomically

ONE, TWO = ({"step/a.A": torch.tensor(n), "exp_avg/a.A": torch.full((2, 2), n)} for n in (1.0, 2.0))


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_round_goes_on_from_the_one_before_and_a_repeated_one_from_where_it_had_started(tmp_path):
    kept = Moments(tmp_path, "run")
    assert kept.before(1, private=False) == {}
    kept.keep(ONE, after_round=1, private=False)
    assert same(kept.before(2, private=False), ONE)
    kept.keep(TWO, after_round=2, private=False)
    kept.keep(TWO, after_round=2, private=False)
    assert same(kept.before(2, private=False), ONE)
    assert same(kept.before(5, private=False), TWO)
    assert Moments(tmp_path, "another").before(5, private=False) == {}


def test_a_factor_that_a_round_did_not_train_keeps_its_moments(tmp_path):
    kept, other = Moments(tmp_path, "run"), {"exp_avg/a.B": torch.zeros(3)}
    kept.keep(ONE, after_round=1, private=False)
    kept.keep(other, after_round=2, private=False)
    assert same(kept.before(3, private=False), {**ONE, **other})


def test_a_private_round_starts_from_nothing_that_was_not_noised(tmp_path):
    kept = Moments(tmp_path, "run")
    kept.keep(ONE, after_round=1, private=False)
    assert kept.before(2, private=True) == {}
    kept.keep(TWO, after_round=2, private=True)
    assert same(kept.before(3, private=True), TWO)
    assert kept.before(2, private=True) == {}


def test_a_damaged_file_is_a_start_afresh(tmp_path):
    kept = Moments(tmp_path, "run")
    kept.keep(ONE, after_round=1, private=False)
    write_atomically(tmp_path / "moments" / "run.safetensors", b"not tensors")
    assert kept.before(2, private=False) == {}


@pytest.mark.parametrize("make", [torch.optim.AdamW, lambda found: torch.optim.SGD(found, lr=0.1, momentum=0.9)])
def test_an_optimiser_that_goes_on_is_one_that_never_stopped(make):
    def steps(optimizer, parameter, count):
        for _ in range(count):
            parameter.grad = 3 * parameter.detach() + 1
            optimizer.step()

    whole, parts = (torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    steps(make([whole]), whole, 5)
    first = make([parts])
    steps(first, parts, 2)
    second = with_state(make([parts]), {"a.B": parts}, state_of(first, {"a.B": parts}))
    steps(second, parts, 3)
    assert torch.equal(whole, parts)
    assert state_of(make([parts]), {"a.B": parts}) == {}


def test_what_is_of_another_shape_or_of_another_optimiser_is_left(tmp_path):
    parameter = torch.nn.Parameter(torch.zeros(3))
    for state in (ONE, {"momentum_buffer/a.A": torch.zeros(3)}, {"step/a.A": torch.tensor(1.0)}):
        assert not with_state(torch.optim.AdamW([parameter]), {"a.A": parameter}, state).state
