"""The local optimiser on a GPU: fused, and its state that of any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from client.steps.optimizer import make_optimizer, state_of, with_state
from fedlora.config import TrainSettings


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize(("device", "fused"), [("cuda", True), ("cpu", None)])
def test_it_is_fused_where_all_that_trains_is_on_a_gpu(name, device, fused):
    settings = TrainSettings(optimizer=name, lr=0.1)
    with FakeTensorMode():
        parameters = [nn.Parameter(torch.empty(2, device=device)) for _ in range(2)]
        assert make_optimizer(nn.Module(), parameters, settings).defaults["fused"] is fused


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_kept_moments_go_on_in_the_other_kind(before, after):
    """A site may be given a GPU between two rounds, or lose it."""

    def steps(*kinds: bool) -> torch.Tensor:
        parameter, state = nn.Parameter(torch.ones(3)), {}
        for fused in kinds:
            optimizer = with_state(torch.optim.AdamW([parameter], lr=0.1, fused=fused), {"p": parameter}, state)
            parameter.grad = parameter.detach().clone()
            optimizer.step()
            state = state_of(optimizer, {"p": parameter})
            assert state["step/p"].device.type == "cpu"
        return parameter.detach()

    torch.testing.assert_close(steps(before, after, after), steps(False, False, False))
