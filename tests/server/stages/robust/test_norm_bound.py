"""The norm bound: how far one update may move the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.testing import assert_close

from fedlora.updates import Factor
from server.stages.base import Round
from server.stages.robust.norm_bound import clip
from server.stages.robust.stage import robust
from tests.server.stages.robust.examples import BOTH, RULES_ON_PRODUCTS, StoppedError, flat, honest, run_stage, settings
from tests.strategies.examples import random_adapter


@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.DENSE), (Factor.B,), (Factor.A,)])
@pytest.mark.parametrize("bound", [1e-3, 0.5, 3.0])
def test_a_clipped_update_moves_the_model_by_the_bound_and_no_more(factors, bound):
    sent, updates = honest(1, size=2.0, factors=factors)
    clipped = clip(updates[0], sent, factors, bound=bound)
    assert float((flat(clipped.adapter) - flat(sent)).norm()) == pytest.approx(bound, rel=1e-6)


def test_where_one_factor_moves_clipping_scales_the_change():
    sent, updates = honest(1, factors=(Factor.B, Factor.DENSE))
    whole, clipped = flat(updates[0].adapter) - flat(sent), clip(updates[0], sent, (Factor.B, Factor.DENSE), bound=0.1)
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
    this = Round(1, sent, tuple(BOTH), lambda *a, **k: None, StoppedError)
    first = next(robust((taken.append(u) or u for u in updates), settings(norm_bound=1.0), this))
    assert first.client == "c0"
    assert len(taken) == 1


def test_a_claimed_number_of_examples_weighs_nothing():
    sent, updates = honest(7)
    updates[3] = replace(updates[3], weight=1e7)
    for rule in ("mean", *RULES_ON_PRODUCTS, "median", "trimmed-mean"):
        going_on, _ = run_stage(updates, sent, rule=rule, norm_bound=1e6)
        assert {update.weight for update in going_on} == {1.0}
