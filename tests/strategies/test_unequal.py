"""Unequal ranks: portions, means over holders, against dense loops."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.lowrank import truncate
from fedlora.updates import Adapter, LowRank, Update
from strategies.base import RankAllocation, Recipient
from strategies.registry import STRATEGIES, build
from strategies.unequal import PaddedMean, mean_over_holders, portion
from tests.strategies.examples import SHAPES, random_adapter, start

ALPHA = 7.5  # RANK * SCALE of the examples
UNEQUAL = sorted(name for name in STRATEGIES if build(name, {}).traits.unequal_ranks)


def layer_of(rank: int, shape: tuple[int, int], seed: int) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    m, n = shape
    B_mr = torch.randn(m, rank, generator=draw, dtype=torch.float64)
    A_rn = torch.randn(rank, n, generator=draw, dtype=torch.float64)
    return LowRank(B_mr, A_rn, ALPHA / rank if rank else 1.0)


def clients() -> list[Update]:
    """Ranks 3, 2, 1; the third holds only two layers, nobody holds `wide`."""
    ranks = ({"square": 3, "tall": 3}, {"square": 2, "tall": 1}, {"square": 1, "tall": 0})
    head = {"head/weight": torch.ones(3, 4).double(), "head/bias": torch.zeros(3).double()}
    return [
        Update(
            f"client-{k}",
            1.0 + k,
            Adapter(
                {name: layer_of(held.get(name, 0), SHAPES[name], 10 * k + i) for i, name in enumerate(SHAPES)},
                {name: (k + 1.0) * tensor for name, tensor in head.items()},
            ),
        )
        for k, held in enumerate(ranks)
    ]


def dense_mean(name: str, updates: list[Update]) -> torch.Tensor:
    holders = [update for update in updates if update.adapter.layers[name].rank > 0]
    total = sum(update.weight for update in holders)
    return sum(update.weight / total * update.adapter.layers[name].dense() for update in holders)


def test_a_portion_is_the_leading_directions_in_the_clients_own_scale():
    whole = random_adapter(1)
    given = portion(whole, {"square": RankAllocation(2, ALPHA / 2), "tall": RankAllocation(0, 1.0)})
    square = whole.layers["square"]
    assert_close(given.layers["square"].dense(), square.scale * square.B_mr[:, :2] @ square.A_rn[:2])
    assert given.layers["square"].scale == ALPHA / 2
    assert given.layers["tall"].rank == 0
    assert given.layers["wide"] is whole.layers["wide"]


def test_a_share_larger_than_the_state_is_an_error():
    with pytest.raises(ValueError, match="share of rank 4"):
        portion(random_adapter(1), {"square": RankAllocation(4, 1.0)})


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_every_scale_enters_the_mean_and_weights_are_renormalised_over_the_holders(weighting):
    updates = clients()
    combined = mean_over_holders(iter(updates), weighting)
    same = updates if weighting == "examples" else [Update(u.client, 1.0, u.adapter) for u in updates]
    assert set(combined.ideal) == {"square", "tall"}
    for name, product in combined.ideal.items():
        assert_close(product.dense(), dense_mean(name, same), rtol=0, atol=1e-10)
    share = 14 / 6 if weighting == "examples" else 2.0
    assert_close(combined.mean.dense["head/weight"], torch.full((3, 4), share).double())


def test_a_padded_mean_is_the_mean_of_padded_factors():
    layers, weights = [layer_of(r, (5, 4), r) for r in (1, 3, 2)], [1.0, 2.0, 5.0]
    mean = PaddedMean()
    for layer, weight in zip(layers, weights, strict=True):
        mean.add(layer, weight)
    B, A = torch.zeros(5, 3).double(), torch.zeros(3, 4).double()
    for layer, weight in zip(layers, weights, strict=True):
        B[:, : layer.rank] += weight / 8 * layer.scale * layer.B_mr
        A[: layer.rank] += weight / 8 * layer.A_rn
    assert_close(mean.result().dense(), B @ A)


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_layer_that_nobody_holds_keeps_its_value(name):
    strategy = build(name, {})
    state = start(strategy)
    after = strategy.step(state, strategy.combine(clients()))
    moved = after.residuals[-1] if strategy.traits.moves_base else {}
    assert "wide" not in moved
    if not strategy.traits.moves_base:
        assert torch.equal(after.adapter.layers["wide"].dense(), state.adapter.layers["wide"].dense())
    assert after.adapter.layers["square"].rank == state.adapter.layers["square"].rank
    assert after.adapter.layers["square"].scale == state.adapter.layers["square"].scale


def test_flexlora_serves_the_best_rank_r_of_the_mean_of_unequal_clients():
    strategy, updates = build("flexlora", {}), clients()
    state = strategy.step(start(strategy), strategy.combine(updates))
    ideal = mean_over_holders(updates, "examples").ideal
    for name in ("square", "tall"):
        best, _ = truncate(ideal[name], state.adapter.layers[name].rank)
        assert_close(state.adapter.layers[name].dense(), best.dense(), rtol=0, atol=1e-10)


def test_flora_folds_the_whole_mean_of_unequal_clients():
    strategy, updates = build("flora", {}), clients()
    state = strategy.step(start(strategy), strategy.combine(updates))
    for name in ("square", "tall"):
        assert_close(state.residuals[-1][name].dense(), dense_mean(name, updates), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", UNEQUAL)
def test_a_broadcast_has_the_recipients_ranks(name):
    strategy = build(name, {})
    payload = strategy.broadcast(start(strategy), Recipient("small", 0, {"square": RankAllocation(1, ALPHA)}))
    assert payload.adapter.layers["square"].rank == 1
    assert payload.adapter.layers["tall"].rank == 3
