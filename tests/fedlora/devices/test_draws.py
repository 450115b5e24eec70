"""What is drawn apart changes no generator, of the CPU or of any GPU."""

from __future__ import annotations

import pytest
import torch

from fedlora.devices import draws
from fedlora.devices.draws import draws_apart


def test_the_cpu_s_generator_is_afterwards_what_it_was_also_after_a_failure():
    before, nothing = torch.get_rng_state(), dict[str, int]()
    with pytest.raises(KeyError), draws_apart():
        nothing[f"{torch.manual_seed(3)} {torch.rand(4)}"]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generators_of_all_gpus_are_put_back(monkeypatch):
    """`torch.manual_seed` sets them all, whichever GPU the model is on."""
    states = [torch.tensor([1]), torch.tensor([2])]
    monkeypatch.setattr(draws, "on_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: list(states))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda given: states.__setitem__(slice(None), given))
    with draws_apart():
        states[:] = [torch.tensor([8]), torch.tensor([9])]
    assert [int(state) for state in states] == [1, 2]
