"""Rules: who is left out leaves no trace, and honest clients lose little."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedlora.updates import Factor
from server.stages.robust.change import change
from server.stages.robust.coordinates import median, trimmed_mean
from server.stages.robust.multi_krum import krum_scores, left_out
from server.stages.robust.screening import median_distances, outliers
from tests.server.stages.robust.examples import BOTH, LINEAR, RULES_ON_PRODUCTS, honest, run_stage
from tests.strategies.examples import built, random_adapter, start, updates_for


def test_krum_scores_by_hand():
    # on a line at 0, 1, 3, 10, 11: n - f - 2 = 2 neighbours each
    points = torch.tensor([[0.0], [1.0], [3.0], [10.0], [11.0]]).double()
    squared = torch.cdist(points, points).square()
    assert krum_scores(squared, attackers=1).tolist() == [1 + 9, 1 + 4, 9 + 4, 1 + 49, 1 + 64]
    assert left_out(squared, attackers=1, keep=None) == [2, 3, 4]
    assert left_out(squared, attackers=1, keep=4) == [4]


def test_screening_by_hand():
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [40.0], [41.0]]).double()
    squared = torch.cdist(points, points).square()
    assert median_distances(squared).tolist() == [3, 2, 2, 3, 38, 39]
    assert outliers(squared, attackers=2, threshold=2.0) == [5, 4]
    assert outliers(squared, attackers=1, threshold=2.0) == [5]
    assert outliers(squared[:4, :4], attackers=2, threshold=2.0) == []


def test_equal_updates_are_nobodys_outliers():
    assert outliers(torch.zeros(5, 5).double(), attackers=1, threshold=2.0) == []


@pytest.mark.parametrize("clients", [3, 4, 5, 6])
def test_coordinate_rules_equal_their_slow_twins(clients):
    draw = torch.Generator().manual_seed(clients)
    updates = [{"x": torch.randn(2, 3, generator=draw).double()} for _ in range(clients)]
    columns = torch.stack([update["x"].flatten() for update in updates], 1).tolist()
    medians = [statistics.median(column) for column in columns]
    trimmed = [statistics.fmean(sorted(column)[1:-1]) for column in columns]
    assert_close(median(updates)["x"].flatten(), torch.tensor(medians).double())
    assert_close(trimmed_mean(updates, trim=1)["x"].flatten(), torch.tensor(trimmed).double())


@pytest.mark.parametrize("rule", ["screen", "multi-krum"])
@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.DENSE)])
def test_two_liars_far_away_and_close_together_are_left_out(rule, factors):
    sent, updates = honest(7, factors=factors)
    far = updates[0].adapter.with_tensors({n: t + 0.3 for n, t in updates[0].adapter.tensors(factors).items()})
    for position in (2, 5):
        updates[position] = replace(updates[position], adapter=far)
    going_on, codes = run_stage(updates, sent, trains=factors, rule=rule, attackers=2)
    assert {2, 5} <= codes.keys()
    assert set(codes.values()) == {"screened-out"}
    assert not {"c2", "c5"} & {update.client for update in going_on}


def test_multi_krum_keeps_as_many_as_are_proven_or_asked_for():
    sent, updates = honest(7)
    assert len(run_stage(updates, sent, rule="multi-krum", attackers=1)[0]) == 4
    assert len(run_stage(updates, sent, rule="multi-krum", attackers=1, keep=6)[0]) == 6


def test_clip_to_median_leaves_nobody_out_and_nobody_above_the_median():
    sent, updates = honest(5)
    norms = [change(update.adapter, sent).norm for update in updates]
    going_on, codes = run_stage(updates, sent, rule="clip-to-median", attackers=2)
    after = [change(update.adapter, sent).norm for update in going_on]
    assert codes == {}
    assert after == pytest.approx([min(size, statistics.median(norms)) for size in norms])


@pytest.mark.parametrize("rule", RULES_ON_PRODUCTS)
def test_the_same_product_in_a_wild_gauge_is_seen_by_its_factors(rule):
    sent, updates = honest(7)
    layers = {
        name: replace(layer, B_mr=1000 * layer.B_mr, A_rn=layer.A_rn / 1000)
        for name, layer in updates[4].adapter.layers.items()
    }
    updates[4] = replace(updates[4], adapter=replace(updates[4].adapter, layers=layers))
    going_on, codes = run_stage(updates, sent, rule=rule)
    assert codes[4] == "outlying-factors"
    assert "c4" not in {update.client for update in going_on}


@pytest.mark.parametrize("rule", [*RULES_ON_PRODUCTS, "median", "trimmed-mean"])
def test_the_order_of_arrival_changes_nothing(rule):
    sent, updates = honest(7)
    updates[2] = replace(updates[2], adapter=random_adapter(9, size=0.5))

    def result(order):
        going_on, codes = run_stage([updates[i] for i in order], sent, rule=rule)
        return [(u.client, u.adapter.tensors()) for u in going_on], {
            updates[order[p]].client: c for p, c in codes.items()
        }

    ours, codes = result(range(7))
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 5, 1, 4]):
        theirs, their_codes = result(order)
        assert their_codes == codes
        assert [client for client, _ in theirs] == [client for client, _ in ours]
        for (_, left), (_, right) in zip(ours, theirs, strict=True):
            assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("name", ["fedit", "fedsvd", "fedex", "flexlora", "fair"])
def test_who_is_left_out_leaves_the_accumulator_bit_identical(name):
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state, clients=7)
    trains = tuple(strategy.trains(1))
    wild = {n: t + 1e4 for n, t in updates[3].adapter.tensors(trains).items()}
    updates[3] = replace(updates[3], adapter=state.adapter.with_tensors(wild))
    rule = {"rule": "screen", "trains": trains}
    with_liar = strategy.combine(run_stage(updates, state.adapter, **rule)[0])
    without = strategy.combine(run_stage([*updates[:3], *updates[4:]], state.adapter, **rule)[0])
    for left, right in zip(with_liar.mean.tensors().values(), without.mean.tensors().values(), strict=True):
        assert torch.equal(left, right)
    for layer in with_liar.ideal:
        assert torch.equal(with_liar.ideal[layer].dense(), without.ideal[layer].dense())


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_a_coordinate_rule_stays_between_honest_values_with_every_linear_strategy(name, rule):
    strategy = built(name)
    state = start(strategy)
    trains = tuple(strategy.trains(1))
    updates = updates_for(strategy, state, clients=5)
    wild = {n: t + 1e6 for n, t in updates[1].adapter.tensors(trains).items()}
    liar = replace(updates[1], adapter=state.adapter.with_tensors(wild))
    (one,), _ = run_stage([updates[0], liar, *updates[2:]], state.adapter, trains=trains, rule=rule)
    combined = strategy.combine([one])
    for key, tensor in combined.mean.tensors(trains).items():
        values = torch.stack([u.adapter.tensors()[key] for i, u in enumerate(updates) if i != 1])
        assert bool(((tensor >= values.min(0).values - 1e-9) & (tensor <= values.max(0).values + 1e-9)).all())


def test_without_liars_the_mean_of_what_a_screen_lets_in_is_the_mean():
    sent, updates = honest(6)
    going_on, codes = run_stage(updates, sent, rule="screen")
    strategy = built("fedex")
    state = strategy.init(sent)
    uniform = [replace(update, weight=1.0) for update in updates]
    left, right = (strategy.step(state, strategy.combine(found)).adapter.tensors() for found in (going_on, uniform))
    assert codes == {}
    assert all(torch.equal(left[name], right[name]) for name in left)
