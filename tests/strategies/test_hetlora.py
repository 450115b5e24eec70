"""HetLoRA's own weights, against what its paper's formula says outright."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedlora.updates import Update
from tests.strategies.examples import built, start, updates_for


def sized(updates: list[Update]) -> list[float]:
    return [sum(float(layer.dense().square().sum()) for layer in u.adapter.layers.values()) ** 0.5 for u in updates]


@pytest.mark.parametrize("shrink", [1.0, 1e-3])
def test_weights_are_the_size_of_delta_w(shrink):
    """Also of clients that hardly moved."""
    strategy = built("hetlora")
    state = start(strategy)
    updates = [
        replace(update, adapter=update.adapter.with_tensors({f"{k}.B": shrink * v.B_mr for k, v in layers.items()}))
        for update in updates_for(strategy, state)
        for layers in [update.adapter.layers]
    ]
    sizes = sized(updates)
    new = strategy.step(state, strategy.combine(updates))
    mean = sum(size / sum(sizes) * u.adapter.layers["tall"].A_rn for size, u in zip(sizes, updates, strict=True))
    assert_close(new.adapter.layers["tall"].A_rn, mean)


def test_the_ideal_and_the_head_have_the_same_weights():
    strategy = built("hetlora")
    updates = updates_for(strategy, start(strategy))
    combined, sizes = strategy.combine(updates), sized(updates)
    shares = [size / sum(sizes) for size in sizes]
    wanted = sum(share * u.adapter.layers["wide"].dense() for share, u in zip(shares, updates, strict=True))
    assert_close(combined.ideal["wide"].dense(), wanted, atol=1e-10, rtol=1e-10)
    head = sum(share * u.adapter.dense["head/bias"] for share, u in zip(shares, updates, strict=True))
    assert_close(combined.mean.dense["head/bias"], head)


def test_a_silent_client_has_no_say_beside_one_that_trained():
    strategy = built("hetlora")
    state = start(strategy)
    spoke = replace(updates_for(strategy, state)[2], weight=1.0)
    silent = state.adapter.with_tensors({f"{k}.B": 0 * v.B_mr for k, v in state.adapter.layers.items()})
    served = strategy.step(state, strategy.combine([Update("silent", 1000.0, silent), spoke])).adapter
    for key, tensor in spoke.adapter.tensors().items():
        assert_close(served.tensors()[key], tensor, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 3.0)])
def test_when_every_delta_w_is_zero_the_examples_decide(weights):
    """All B = 0: the paper's weights are 0 / 0."""
    strategy = built("hetlora")
    state = start(strategy)
    silent = state.adapter.with_tensors({k: 0 * t for k, t in state.adapter.tensors().items() if k.endswith(".B")})
    heads = [silent.with_tensors({"head/bias": torch.full((3,), float(k)).double()}) for k in range(2)]
    updates = [Update(str(k), weight, head) for k, (weight, head) in enumerate(zip(weights, heads, strict=True))]
    mean = strategy.combine(updates).mean.dense["head/bias"]
    assert_close(mean, torch.full((3,), weights[1] / sum(weights)).double())
