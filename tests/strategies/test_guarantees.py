"""Sentences of the strategies' stated guarantees that the general properties and the papers' tests leave over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Recipient
from strategies.fedsvd import refactored
from strategies.registry import STRATEGIES, named
from tests.strategies.examples import RANK, built, ideal_dense, random_adapter, served_dense, start, updates_for


def after_rounds(name: str, count: int = 3):
    strategy = built(name)
    first = state = start(strategy)
    for number in range(1, count + 1):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
    return strategy, first, state


@pytest.mark.parametrize(("name", "frozen"), [("ffa", ".A"), ("fedsb", ".A"), ("fedsb", ".B"), ("fedsa", ".B")])
def test_a_frozen_factor_keeps_its_bits(name, frozen):
    """FFA-LoRA: A never changes. Fed-SB: A and B never change. FedSA-LoRA: the coordinator's B is nobody's."""
    _, first, last = after_rounds(name)
    before, after = first.adapter.tensors(), last.adapter.tensors()
    names = [key for key in before if key.endswith(frozen)]
    assert names
    assert all(torch.equal(before[key], after[key]) for key in names)


OWN = frozenset({Factor.B, Factor.DENSE})
SAID = {
    # exact, unequal ranks, linear uploads, moves the base, fixed coordinates, redraws, own weights, keeps
    "fair": (False, False, False, False, False, False, False, frozenset()),
    "fedex": (True, False, False, True, False, False, False, frozenset()),
    "fedit": (False, False, True, False, True, False, False, frozenset()),
    "fedsa": (False, False, True, False, True, False, False, OWN),
    "fedsb": (True, False, True, False, True, False, False, frozenset()),
    "fedsvd": (True, False, True, False, False, False, False, frozenset()),
    "ffa": (True, False, True, False, True, False, False, frozenset()),
    "flexlora": (False, True, False, False, False, True, False, frozenset()),
    "flora": (True, True, False, True, False, True, False, frozenset()),
    "hetlora": (False, True, False, False, True, False, True, frozenset()),
    "rolora": (True, False, True, False, True, False, False, frozenset()),
}


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_what_a_strategy_says_of_itself(name):
    """Written out: other tests and refusals take their cases from these, and a case that is not there fails nothing."""
    said = built(name).traits
    assert name in SAID, f"write out in SAID what {name!r} says of itself"
    assert said.example_level_dp
    assert SAID[name] == (
        said.exact, said.unequal_ranks, said.linear_uploads, said.moves_base, said.fixed_coordinates, said.redraws,
        said.own_weights, said.keeps,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_uploads_are_linear_exactly_where_it_is_said(name):
    """Everybody sends the weighted mean in place of their own: nothing changes where only weighted sums are used."""
    strategy = built(name)
    state = start(strategy)
    updates = updates_for(strategy, state)
    weight = sum(update.weight for update in updates)
    means = {
        key: sum(update.weight / weight * update.adapter.tensors()[key] for update in updates)
        for key in updates[0].adapter.tensors()
    }
    alike = [replace(update, adapter=update.adapter.with_tensors(means)) for update in updates]
    ends = [served_dense(state, strategy.step(state, strategy.combine(sent))) for sent in (updates, alike)]
    same = all(torch.allclose(dense, ends[1][key], rtol=1e-9, atol=1e-9) for key, dense in ends[0].items())
    assert same == strategy.traits.linear_uploads


def served_with_noise(name: str, size: float):
    """ΔW of a round whose clients' trained factors carry noise of this size, always the same draws."""
    strategy = built(name)
    state = start(strategy)
    draw = torch.Generator().manual_seed(3)
    noised = []
    for update in updates_for(strategy, state):
        own = update.adapter.tensors(strategy.trains(1))
        noise = {key: torch.randn(t.shape, generator=draw, dtype=t.dtype) for key, t in own.items()}
        moved = {key: t + size * noise[key] for key, t in own.items()}
        noised.append(replace(update, adapter=update.adapter.with_tensors(moved)))
    return served_dense(state, strategy.step(state, strategy.combine(noised)))


@pytest.mark.parametrize(
    ("name", "linear"), [("ffa", True), ("fedsvd", True), ("fedsb", True), ("rolora", True), ("fedit", False)]
)
def test_noise_in_what_is_sent_enters_delta_w_linearly_unless_both_factors_carry_it(name, linear):
    clean, once, twice = (served_with_noise(name, size) for size in (0.0, 1.0, 2.0))
    for key in clean:
        one, two = once[key] - clean[key], twice[key] - clean[key]
        assert torch.allclose(two, 2 * one, atol=1e-9) == linear


@pytest.mark.parametrize("shared", ["A", "B"])
def test_fedit_is_exact_when_all_clients_agree_on_a_or_on_b(shared):
    strategy = built("fedit")
    state = start(strategy)
    updates = updates_for(strategy, state)
    common = {key: t for key, t in updates[0].adapter.tensors().items() if key.endswith(f".{shared}")}
    agreeing = [replace(update, adapter=update.adapter.with_tensors(common)) for update in updates]
    served = served_dense(state, strategy.step(state, strategy.combine(agreeing)))
    for key, wanted in ideal_dense(agreeing).items():
        assert_close(served[key], wanted, atol=1e-10, rtol=1e-10)


def test_fedit_without_its_error_serves_the_same_and_keeps_no_update():
    plain, frugal = built("fedit"), built("fedit", report_error=False)
    state = start(plain)
    updates = updates_for(plain, state)
    whole, kept = plain.combine(updates), frugal.combine(updates)
    assert (whole.measured, kept.measured) == (True, False)
    assert_close(plain.step(state, whole).adapter.tensors(), frugal.step(state, kept).adapter.tensors())
    assert all(product.rank == RANK for product in kept.ideal.values())


def test_weights_are_those_of_the_participants_alone():
    """Two of four clients answer: the mean is over these two."""
    for name in ("fedit", "fedex", "flora", "fedsvd"):
        strategy = built(name)
        state = start(strategy)
        two = updates_for(strategy, state)[1:3]
        served = served_dense(state, strategy.step(state, strategy.combine(two)))
        if strategy.traits.exact:
            for key, wanted in ideal_dense(two).items():
                assert_close(served[key], wanted, atol=1e-10, rtol=1e-10)
        else:
            bias = strategy.step(state, strategy.combine(two)).adapter.dense["head/bias"]
            total = sum(update.weight for update in two)
            assert_close(bias, sum(u.weight / total * u.adapter.dense["head/bias"] for u in two))


def test_fedsa_averages_a_with_weights():
    strategy = built("fedsa")
    state = start(strategy)
    updates = updates_for(strategy, state)
    total = sum(update.weight for update in updates)
    new = strategy.step(state, strategy.combine(updates))
    for key in new.adapter.layers:
        mean = sum(u.weight / total * u.adapter.layers[key].A_rn for u in updates)
        assert_close(new.adapter.layers[key].A_rn, mean, atol=1e-10, rtol=1e-10)


def test_floras_download_grows_with_the_clients_until_dense_is_smaller():
    strategy = built("flora")
    state = start(strategy)
    ranks = []
    for clients in (1, 2, 3, 8):
        new = strategy.step(state, strategy.combine(updates_for(strategy, state, clients=clients)))
        ranks.append(strategy.broadcast(new, Recipient("a")).residual["square"].rank)
    assert ranks == [RANK, 2 * RANK, 3 * RANK, 12]


def test_fedsvd_keeps_directions_that_a_dense_float32_svd_loses():
    """σ_1 / σ_r of 1e6 in float32 factors: the trailing row of A is still orthonormal and in the row space."""
    draw = torch.Generator().manual_seed(0)
    B_mr = torch.randn(20, 3, generator=draw) * torch.tensor([1e3, 1.0, 1e-3])
    layer = LowRank(B_mr.double(), torch.randn(3, 24, generator=draw).double(), 1.0)
    after = refactored(layer)
    assert_close(after.A_rn @ after.A_rn.mT, torch.eye(3).double(), atol=1e-10, rtol=0)
    sizes = torch.linalg.vector_norm(after.B_mr, dim=0)
    assert float(sizes[0] / sizes[2]) > 1e5
    _, S, Vh = torch.linalg.svd(layer.dense(), full_matrices=False)
    assert_close(sizes, S[:3], atol=0, rtol=1e-6)
    assert abs(float(after.A_rn[2] @ Vh[2])) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", named(unequal_ranks=True))
def test_a_small_clients_scale_enters_the_mean(name):
    """α / r_k differs between clients: forgetting it would weigh a client of half the rank by half."""
    strategy = built(name)
    draw = torch.Generator().manual_seed(1)
    pairs = [(3, 2.5), (1, 7.5)]
    updates = [
        Update(str(rank), 1.0, Adapter({"w": LowRank(torch.randn(6, rank, generator=draw, dtype=torch.float64),
               torch.randn(rank, 8, generator=draw, dtype=torch.float64), scale)}))
        for rank, scale in pairs
    ]  # fmt: skip
    combined = strategy.combine(updates)
    sizes = [float(update.adapter.layers["w"].dense().norm()) for update in updates]
    shares = [size / sum(sizes) for size in sizes] if strategy.traits.own_weights else [0.5, 0.5]
    wanted = sum(share * u.adapter.layers["w"].dense() for share, u in zip(shares, updates, strict=True))
    assert_close(combined.ideal["w"].dense(), wanted, atol=1e-10, rtol=1e-10)


def test_a_head_is_averaged_whatever_happens_to_the_layers():
    strategy = built("flora")
    state = strategy.init(random_adapter(0))
    updates = updates_for(strategy, state)
    total = sum(update.weight for update in updates)
    new = strategy.step(state, strategy.combine(updates))
    mean = sum(u.weight / total * u.adapter.dense["head/weight"] for u in updates)
    assert_close(new.adapter.dense["head/weight"], mean)
