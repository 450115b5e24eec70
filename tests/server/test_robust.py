"""Robust aggregation: what is measured on ΔW does not see how it is factored; preconditions are enforced; the update of
whoever is left out leaves no trace."""

from __future__ import annotations

import itertools
import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from fedlora.config import Recipe
from fedlora.lowrank import Product
from fedlora.norms import dense_gram, gram
from fedlora.robust import RobustSettings
from fedlora.settings import RunError, SettingsError, parse
from fedlora.updates import Adapter, Factor, Update, subtract
from server.robust.change import change, distances_of, squared_distances
from server.robust.coordinates import median, trimmed_mean
from server.robust.fit import held_mb, require_enough
from server.robust.multi_krum import krum_scores, left_out
from server.robust.norm_bound import clip
from server.robust.screening import median_distances, outliers
from server.robust.stage import robust
from strategies.fit import require_robust_fit
from strategies.registry import STRATEGIES
from tests.strategies.examples import built, random_adapter, start, updates_for

BOTH = (Factor.A, Factor.B, Factor.HEAD)
LINEAR = sorted(name for name in STRATEGIES if built(name).traits.linear_uploads)
RULES_ON_PRODUCTS = ("clip-to-median", "screen", "multi-krum")


class StoppedError(Exception):
    """A round that cannot be judged."""


def settings(**values: Any) -> RobustSettings:
    return parse(RobustSettings, values)


def honest(clients: int = 7, *, size: float = 0.1, factors: tuple[Factor, ...] = BOTH) -> tuple[Adapter, list[Update]]:
    """A state, and clients that move it a little, each its own way."""
    sent = random_adapter(0)
    updates = []
    for client in range(clients):
        step = random_adapter(100 + client, size=size).tensors(factors)
        own = sent.tensors(factors)
        updates.append(Update(f"c{client}", 10.0 + client, sent.with_tensors({n: t + step[n] for n, t in own.items()})))
    return sent, updates


def regauged(update: Update, seed: int) -> Update:
    """The same ΔW from other factors: B G and G⁻¹ A, another G for each matrix."""
    draw = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in update.adapter.layers.items():
        G = torch.eye(layer.rank, dtype=torch.float64) + 0.3 * torch.randn(3, 3, generator=draw, dtype=torch.float64)
        layers[name] = replace(layer, B_mr=layer.B_mr @ G, A_rn=torch.linalg.inv(G) @ layer.A_rn)
    return replace(update, adapter=replace(update.adapter, layers=layers))


def run_stage(updates, sent, *, trains=BOTH, **values):
    """(what goes on, {position: code}) of one round."""
    codes: dict[int, str] = {}

    def judge(position, *, change_norm=None, code=None):
        if code is not None:
            codes[position] = code

    going_on = list(
        robust(updates, settings=settings(**values), sent=sent, trains=trains, judge=judge, stop=StoppedError)
    )
    return going_on, codes


def flat(adapter: Adapter) -> torch.Tensor:
    """Every weight that the adapter changes, formed outright."""
    dense = [adapter.layers[name].dense().flatten() for name in sorted(adapter.layers)]
    return torch.cat([*dense, *(tensor.flatten() for tensor in adapter.tensors([Factor.HEAD]).values())])


# What is measured


def test_inner_products_are_those_of_the_dense_products():
    products = [Product(torch.randn(9, r).double(), torch.randn(r, 5).double()) for r in (1, 4, 2)]
    assert_close(gram(products), dense_gram(products))


def test_one_by_one_numbers_that_can_be_checked_in_the_head():
    products = [
        Product(torch.tensor([[2.0]]), torch.tensor([[3.0]])),
        Product(torch.tensor([[-1.0]]), torch.ones(1, 1)),
    ]
    assert gram(products).tolist() == [[36.0, -6.0], [-6.0, 1.0]]
    assert distances_of(gram(products)).tolist() == [[0.0, 49.0], [49.0, 0.0]]


@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.HEAD), (Factor.A,)])
def test_distances_and_norms_equal_those_of_the_dense_changes(factors):
    sent, updates = honest(4, factors=factors)
    changes = [change(update.adapter, sent) for update in updates]
    dense = torch.stack([flat(update.adapter) - flat(sent) for update in updates])
    assert_close(torch.tensor([found.norm for found in changes]).double(), dense.norm(dim=1))
    assert_close(squared_distances(changes), torch.cdist(dense, dense).square(), atol=1e-9, rtol=1e-9)


def test_a_core_moves_the_matrix_between_its_fixed_factors():
    sent, after = random_adapter(0, core=True), random_adapter(0, core=True)
    after = after.with_tensors({n: t + 0.1 for n, t in after.tensors([Factor.R]).items()})
    dense = torch.cat([(after.layers[n].dense() - sent.layers[n].dense()).flatten() for n in sent.layers])
    assert change(after, sent).norm == pytest.approx(float(dense.norm()))


def test_scores_and_norms_do_not_depend_on_the_gauge():
    sent, updates = honest(7)
    ours = [change(update.adapter, sent) for update in updates]
    theirs = [change(regauged(update, seed).adapter, sent) for seed, update in enumerate(updates)]
    assert [found.norm for found in theirs] == pytest.approx([found.norm for found in ours])
    squared, regauged_squared = squared_distances(ours), squared_distances(theirs)
    assert_close(krum_scores(regauged_squared, attackers=2), krum_scores(squared, attackers=2))
    assert_close(median_distances(regauged_squared), median_distances(squared))


# The norm bound


@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.HEAD), (Factor.B,), (Factor.A,)])
@pytest.mark.parametrize("bound", [1e-3, 0.5, 3.0])
def test_a_clipped_update_moves_the_model_by_the_bound_and_no_more(factors, bound):
    sent, updates = honest(1, size=2.0, factors=factors)
    clipped = clip(updates[0], sent, factors, bound=bound)
    assert float((flat(clipped.adapter) - flat(sent)).norm()) == pytest.approx(bound, rel=1e-6)


def test_where_one_factor_moves_clipping_scales_the_change():
    sent, updates = honest(1, factors=(Factor.B, Factor.HEAD))
    whole, clipped = flat(updates[0].adapter) - flat(sent), clip(updates[0], sent, (Factor.B, Factor.HEAD), bound=0.1)
    assert_close(flat(clipped.adapter) - flat(sent), whole * (0.1 / whole.norm()), atol=1e-9, rtol=1e-6)


def test_an_update_within_the_bound_is_handed_on_unchanged():
    sent, updates = honest(3)
    going_on, codes = run_stage(updates, sent, norm_bound=1e6)
    assert codes == {}
    assert all(out.adapter is update.adapter for out, update in zip(going_on, updates, strict=True))


def test_an_update_over_the_bound_is_left_out_where_the_recipe_says_so():
    sent, updates = honest(3)
    updates[1] = replace(updates[1], adapter=random_adapter(9, size=50.0))
    going_on, codes = run_stage(updates, sent, norm_bound=100.0, over_bound="reject")
    assert codes == {1: "over-norm"}
    assert [update.client for update in going_on] == ["c0", "c2"]


def test_the_norm_bound_alone_holds_one_update_at_a_time():
    sent, updates = honest(3)
    taken = []
    first = next(robust(
        (taken.append(u) or u for u in updates), settings=settings(norm_bound=1.0), sent=sent, trains=BOTH,
        judge=lambda *a, **k: None, stop=StoppedError,
    ))  # fmt: skip
    assert first.client == "c0"
    assert len(taken) == 1


def test_a_claimed_number_of_examples_weighs_nothing():
    sent, updates = honest(7)
    updates[3] = replace(updates[3], weight=1e7)
    for rule in ("mean", *RULES_ON_PRODUCTS, "median", "trimmed-mean"):
        going_on, _ = run_stage(updates, sent, rule=rule, norm_bound=1e6)
        assert {update.weight for update in going_on} == {1.0}


# Rules


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
@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.HEAD)])
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


# Preconditions: refused with the reason, one test each


@pytest.mark.parametrize(
    ("rule", "attackers", "needed", "bound"),
    [
        ("multi-krum", 1, 5, r"n >= 2f \+ 3"),
        ("multi-krum", 2, 7, r"n >= 2f \+ 3"),
        ("screen", 1, 4, r"n >= 2f \+ 2"),
        ("median", 2, 5, r"n >= 2f \+ 1"),
        ("trimmed-mean", 1, 3, r"n >= 2f \+ 1"),
        ("clip-to-median", 1, 3, r"n >= 2f \+ 1"),
    ],
)
def test_too_few_updates_for_f_stop_the_round(rule, attackers, needed, bound):
    sent, updates = honest(needed)
    assert run_stage(updates, sent, rule=rule, attackers=attackers)[0]
    with pytest.raises(
        StoppedError, match=rf"robust.rule={rule} needs {bound} .* {needed} updates, {needed - 1} arrived"
    ):
        run_stage(updates[:-1], sent, rule=rule, attackers=attackers)


def test_no_update_at_all_stops_the_round():
    with pytest.raises(StoppedError, match="0 arrived"):
        run_stage([], random_adapter(0), rule="median")


def test_more_liars_than_the_rule_allows_stop_the_round():
    sent, updates = honest(7)
    for position in (1, 2):
        updates[position] = replace(updates[position], adapter=random_adapter(position, size=50.0))
    with pytest.raises(StoppedError, match=r"2 were left out already, more than robust.attackers=1"):
        run_stage(updates, sent, rule="multi-krum", norm_bound=100.0, over_bound="reject")


def test_a_client_over_the_norm_counts_among_the_liars_and_does_not_stop_a_round_that_just_suffices():
    sent, updates = honest(5)
    updates[0] = replace(updates[0], adapter=random_adapter(9, size=50.0))
    going_on, codes = run_stage(updates, sent, rule="multi-krum", norm_bound=100.0, over_bound="reject")
    assert codes[0] == "over-norm"
    assert len(going_on) == 2  # n - f - 2


def recipe(**values: Any) -> Recipe:
    return parse(Recipe, values)


def test_asking_too_few_clients_is_refused_before_anything_is_sent():
    asked = recipe(robust={"rule": "multi-krum", "attackers": 2}, strategy={"name": "fedit"})
    with pytest.raises(RunError, match=r"n >= 2f \+ 3 .* 7 updates, and 6 clients are asked.*rounds.fraction=1.0"):
        require_enough(asked, 1, 6, random_adapter(0))
    require_enough(asked, 1, 7, random_adapter(0))


def test_a_number_of_clients_that_the_recipe_knows_is_refused_with_the_recipe():
    with pytest.raises(SettingsError, match=r"needs n >= 2f \+ 3 .* 5 updates, a round asks 2 clients"):
        recipe(data={"partition": "iid", "clients": 4}, rounds={"fraction": 0.5}, robust={"rule": "multi-krum"})


def test_more_kept_than_are_honest_is_refused():
    with pytest.raises(SettingsError, match=r"n >= f \+ robust.keep=7 with f = robust.attackers=1: 8 updates"):
        recipe(data={"partition": "iid", "clients": 7}, robust={"rule": "multi-krum", "keep": 7})


def test_keep_without_multi_krum_is_refused():
    with pytest.raises(SettingsError, match="keep=3 is a setting of rule: multi-krum"):
        settings(keep=3, rule="screen")


def test_holding_more_than_the_memory_allows_is_refused_before_anything_is_sent():
    asked = recipe(robust={"rule": "screen", "memory_mb": 0.01})
    with pytest.raises(RunError, match=r"holds the updates of 9 clients at once, 0 MB, more than robust.memory_mb=0"):
        require_enough(asked, 1, 9, random_adapter(0))
    one_at_a_time = recipe(robust={"norm_bound": 1.0, "memory_mb": 0.01})
    require_enough(one_at_a_time, 1, 9, random_adapter(0))
    assert held_mb(10, random_adapter(0)) == pytest.approx(10 * held_mb(1, random_adapter(0)))


def test_client_level_privacy_is_refused():
    private = {"client_level": {"clip": 1.0, "noise_multiplier": 1.0}}
    with pytest.raises(SettingsError, match=r"robust and privacy.client_level exclude each other"):
        recipe(privacy=private, robust={"rule": "screen"})
    recipe(privacy={"epsilon": 3.0}, robust={"rule": "screen"})  # example-level privacy: post-processing


def test_unequal_devices_are_refused():
    with pytest.raises(SettingsError, match=r"unequal rank or depth.*Remove `devices`"):
        recipe(strategy={"name": "flexlora"}, devices={"others": {"r": 4}}, robust={"norm_bound": 1.0})


@pytest.mark.parametrize("mode", ["alone", "pooled"])
def test_one_client_alone_has_nobody_to_compare_with(mode):
    with pytest.raises(SettingsError, match=rf"mode={mode} has one"):
        recipe(mode=mode, robust={"rule": "median"})


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - set(LINEAR)))
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_a_coordinate_rule_is_refused_where_uploads_are_not_linear(name, rule):
    with pytest.raises(SettingsError, match=rf"robust.rule={rule} .* {name} looks at whole updates"):
        require_robust_fit(recipe(robust={"rule": rule}, strategy={"name": name}), built(name))


@pytest.mark.parametrize("asked", [{"rule": "screen"}, {"rule": "multi-krum"}, {"norm_bound": 1.0}])
def test_measuring_products_is_refused_where_a_factor_never_leaves_its_site(asked):
    with pytest.raises(SettingsError, match="measures ΔW, and with fedsa every site serves a ΔW of its own"):
        require_robust_fit(recipe(robust=asked, strategy={"name": "fedsa"}), built("fedsa"))
    require_robust_fit(recipe(robust={"rule": "median"}, strategy={"name": "fedsa"}), built("fedsa"))


def test_every_rule_has_its_bound_in_words_and_numbers():
    for rule, f in itertools.product(("clip-to-median", "screen", "multi-krum", "median", "trimmed-mean"), (1, 2, 5)):
        found = settings(rule=rule, attackers=f)
        extra = int(found.precondition.partition("2f + ")[2][0])
        assert found.least_updates == 2 * f + extra
        assert math.isfinite(found.memory_mb)


def test_a_change_of_nothing_is_exactly_zero():
    sent = random_adapter(0)
    assert change(sent, sent).norm == 0.0
    assert subtract(sent.tensors(), sent.tensors())["head/bias"].abs().max() == 0
