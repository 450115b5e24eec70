"""Preconditions are enforced: refused with the reason, one test each."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from fedlora.config import Recipe
from fedlora.settings import RunError, SettingsError, parse
from server.stages.robust.fit import held_mb, require_enough
from strategies.compatibility import case_of, require_compatible
from strategies.registry import STRATEGIES
from tests.server.stages.robust.examples import LINEAR, StoppedError, honest, run_stage, settings
from tests.strategies.examples import random_adapter


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
    with pytest.raises(StoppedError, match=r"2 were already left out, more than robust.attackers=1"):
        run_stage(updates, sent, rule="multi-krum", norm_bound=100.0, over_bound="reject")


def test_a_client_over_the_norm_counts_among_the_liars_and_does_not_stop_a_round_that_just_suffices():
    sent, updates = honest(5)
    updates[0] = replace(updates[0], adapter=random_adapter(9, size=50.0))
    going_on, codes = run_stage(updates, sent, rule="multi-krum", norm_bound=100.0, over_bound="reject")
    assert codes[0] == "over-norm"
    assert len(going_on) == 2  # n - f - 2


def recipe(**values: Any) -> Recipe:
    return parse(Recipe, values)


def begin(**values: Any) -> None:
    """As far as the recipe alone says."""
    require_compatible(case_of(recipe(**values)))


def test_asking_too_few_clients_is_refused_before_anything_is_sent():
    asked = recipe(robust={"rule": "multi-krum", "attackers": 2}, strategy={"name": "fedit"})
    with pytest.raises(RunError, match=r"n >= 2f \+ 3 .* 7 updates, but 6 clients are asked.*rounds.fraction=1.0"):
        require_enough(asked, 1, 6, random_adapter(0))
    require_enough(asked, 1, 7, random_adapter(0))


def test_a_number_of_clients_that_the_recipe_knows_is_refused_with_the_recipe():
    with pytest.raises(SettingsError, match=r"needs n >= 2f \+ 3 .* 5 updates, but a round asks 2 clients"):
        begin(data={"partition": "iid", "clients": 4}, rounds={"fraction": 0.5}, robust={"rule": "multi-krum"})


def test_more_kept_than_are_honest_is_refused():
    with pytest.raises(SettingsError, match=r"n >= f \+ robust.keep=7 with f = robust.attackers=1: 8 updates"):
        begin(data={"partition": "iid", "clients": 7}, robust={"rule": "multi-krum", "keep": 7})


def test_keep_without_multi_krum_is_refused():
    with pytest.raises(SettingsError, match="keep=3 is a setting of rule: multi-krum"):
        settings(keep=3, rule="screen")


def test_holding_more_than_the_memory_allows_is_refused_before_anything_is_sent():
    asked = recipe(robust={"rule": "screen", "memory_mb": 0.01})
    with pytest.raises(
        RunError, match=r"keeps the updates of 9 clients in memory at once, 0 MB, more than robust.memory_mb=0"
    ):
        require_enough(asked, 1, 9, random_adapter(0))
    one_at_a_time = recipe(robust={"norm_bound": 1.0, "memory_mb": 0.01})
    require_enough(one_at_a_time, 1, 9, random_adapter(0))
    assert held_mb(10, random_adapter(0)) == pytest.approx(10 * held_mb(1, random_adapter(0)))


def test_client_level_privacy_is_refused():
    private = {"client_level": {"clip": 1.0, "noise_multiplier": 1.0}}
    with pytest.raises(SettingsError, match=r"robust and privacy.client_level exclude each other"):
        begin(privacy=private, robust={"rule": "screen"})
    begin(privacy={"epsilon": 3.0}, robust={"rule": "screen"})  # example-level privacy: post-processing


def test_unequal_devices_are_refused():
    with pytest.raises(SettingsError, match=r"different rank or depth.*Remove `devices`"):
        begin(strategy={"name": "flexlora"}, devices={"others": {"r": 4}}, robust={"norm_bound": 1.0})


@pytest.mark.parametrize("mode", ["alone", "pooled"])
def test_one_client_alone_has_nobody_to_compare_with(mode):
    with pytest.raises(SettingsError, match=rf"mode={mode} has one"):
        begin(mode=mode, robust={"rule": "median"})


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - set(LINEAR)))
@pytest.mark.parametrize("rule", ["median", "trimmed-mean"])
def test_a_coordinate_rule_is_refused_where_uploads_are_not_linear(name, rule):
    with pytest.raises(SettingsError, match=rf"robust.rule={rule} .* {name} needs complete updates"):
        begin(robust={"rule": rule}, strategy={"name": name})


@pytest.mark.parametrize("asked", [{"rule": "screen"}, {"rule": "multi-krum"}, {"norm_bound": 1.0}])
def test_measuring_products_is_refused_where_a_factor_never_leaves_its_site(asked):
    with pytest.raises(SettingsError, match="measures ΔW, but with fedsa every site has its own ΔW"):
        begin(robust=asked, strategy={"name": "fedsa"})
    begin(robust={"rule": "median"}, strategy={"name": "fedsa"})


def test_every_rule_has_its_bound_in_words_and_numbers():
    for rule, f in itertools.product(("clip-to-median", "screen", "multi-krum", "median", "trimmed-mean"), (1, 2, 5)):
        found = settings(rule=rule, attackers=f)
        extra = int(found.precondition.partition("2f + ")[2][0])
        assert found.least_updates == 2 * f + extra
        assert math.isfinite(found.memory_mb)
