"""Each paper's own invariants, beyond what every strategy must satisfy."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.adapters.exactness import aggregation_error
from fedlora.config import AdapterSettings
from fedlora.lowrank import Product, compact, stack
from fedlora.norms import frobenius
from fedlora.settings import SettingsError
from fedlora.updates import Factor, Update
from strategies.registry import build
from strategies.versions import total
from tests.strategies.examples import RANK, SCALE, built, ideal_dense, start, updates_for


def test_fedits_error_is_the_cross_covariance_of_the_factors():
    strategy = built("fedit")
    state = start(strategy)
    updates = updates_for(strategy, state)
    new = strategy.step(state, strategy.combine(updates))
    total = sum(update.weight for update in updates)
    for key, wanted in ideal_dense(updates).items():
        mean = new.adapter.layers[key]
        covariance = sum(
            u.weight / total * (u.adapter.layers[key].B_mr - mean.B_mr) @ (u.adapter.layers[key].A_rn - mean.A_rn)
            for u in updates
        )
        assert_close(wanted - mean.dense(), SCALE * covariance, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("clients", [2, 4])
def test_fedexs_residual_has_rank_at_most_k_minus_one_times_r(clients):
    strategy = built("fedex")
    state = start(strategy)
    combined = strategy.combine(updates_for(strategy, state, clients=clients))
    residual = combined.residual
    for key, (m, n) in {"square": (12, 12), "tall": (14, 6), "wide": (5, 16)}.items():
        assert compact(residual[key]).rank <= min((clients - 1) * RANK, m, n)


def test_fedexs_residual_keeps_its_digits_when_clients_hardly_differ():
    """A difference of products of size 1 would keep none of a residual of size 1e-12; centred factors keep them."""
    strategy = built("fedex")
    state = start(strategy)
    updates = updates_for(strategy, state)
    small = [
        Update(u.client, u.weight, state.adapter.with_tensors(
            {k: t + 1e-7 * (u.adapter.tensors()[k] - t) for k, t in state.adapter.tensors().items()}))
        for u in updates
    ]  # fmt: skip
    large, tiny = strategy.combine(updates).residual, strategy.combine(small).residual
    for key in large:
        assert_close(tiny[key].dense() * 1e14, large[key].dense(), atol=1e-4, rtol=1e-4)


def test_fedex_truncated_errs_by_what_eckart_and_young_say():
    exact, cut = built("fedex"), built("fedex", rank=2)
    state = start(exact)
    updates = updates_for(exact, state)
    whole = exact.step(state, exact.combine(updates)).residuals[0]
    kept = cut.step(state, cut.combine(updates)).residuals[0]
    for key, product in whole.items():
        singular = torch.linalg.svdvals(product.dense())
        gap = frobenius(stack([product, Product(-kept[key].U_mp, kept[key].V_pn)]))
        assert gap == pytest.approx(float(singular[2:].square().sum().sqrt()), rel=1e-9)
    assert not cut.traits.exact


def test_fedex_truncated_reports_that_error_as_its_aggregation_error():
    cut = built("fedex", rank=2)
    state = start(cut)
    combined = cut.combine(updates_for(cut, state))
    new = cut.step(state, combined)
    tails = sum(
        float(torch.linalg.svdvals(product.dense())[2:].square().sum()) for product in combined.residual.values()
    )
    size = sum(frobenius(product) ** 2 for product in combined.ideal.values())
    reported = aggregation_error(combined.ideal, new.adapter, new.residuals)
    assert reported == pytest.approx((tails / size) ** 0.5, rel=1e-9)


def test_fedex_is_exact_over_rounds_against_averaging_whole_matrices():
    """The base plus the adapter after three rounds is W0 plus the sum of what exact averages of ΔW changed."""
    strategy = built("fedex")
    state = start(strategy)
    whole = {key: layer.dense() for key, layer in state.adapter.layers.items()}
    for number in (1, 2, 3):
        updates = updates_for(strategy, state, round_number=number)
        before = {key: layer.dense() for key, layer in state.adapter.layers.items()}
        whole = {key: whole[key] + ideal_dense(updates)[key] - before[key] for key in whole}
        state = strategy.step(state, strategy.combine(updates))
    for key, wanted in whole.items():
        served = state.adapter.layers[key].dense() + total(state)[key].dense()
        assert_close(served, wanted, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("clients", [1, 2, 4, 8])
def test_fedexs_streamed_residual_is_the_difference_of_dense_products(clients):
    """Term by term while that is smaller, dense after it (8 clients: rank 24 of 5 to 14): the same matrix."""
    strategy = built("fedex")
    updates = updates_for(strategy, start(strategy), clients=clients)
    combined = strategy.combine(updates)
    for key, wanted in ideal_dense(updates).items():
        assert_close(combined.residual[key].dense(), wanted - combined.mean.layers[key].dense())


def test_flora_starts_each_round_from_another_a_and_from_b_zero():
    strategy = built("flora")
    state = start(strategy)
    first = strategy.step(state, strategy.combine(updates_for(strategy, state)))
    second = strategy.step(first, strategy.combine(updates_for(strategy, first)))
    for key, layer in first.adapter.layers.items():
        assert not torch.any(layer.B_mr)
        assert not torch.equal(layer.A_rn, second.adapter.layers[key].A_rn)
        bound = layer.shape[1] ** -0.5  # PEFT's: uniform between minus this and this
        assert -bound <= float(layer.A_rn.min()) < -bound / 2
        assert bound / 2 < float(layer.A_rn.max()) <= bound


def test_flexlora_serves_the_best_approximation_with_all_of_s_in_b():
    strategy = built("flexlora")
    state = start(strategy)
    updates = updates_for(strategy, state)
    new = strategy.step(state, strategy.combine(updates))
    for key, wanted in ideal_dense(updates).items():
        U, S, Vh = torch.linalg.svd(wanted, full_matrices=False)
        served = new.adapter.layers[key]
        assert_close(served.dense(), (U[:, :RANK] * S[:RANK]) @ Vh[:RANK], atol=1e-10, rtol=1e-10)
        assert_close(served.A_rn @ served.A_rn.mT, torch.eye(RANK, dtype=torch.float64), atol=1e-10, rtol=0)
        assert_close(torch.linalg.vector_norm(served.B_mr, dim=0), S[:RANK] / SCALE, atol=1e-10, rtol=1e-10)


def test_rolora_begins_with_b_and_alternates():
    strategy = built("rolora")
    phases = [strategy.trains(number) - {Factor.DENSE} for number in (1, 2, 3, 4)]
    assert phases == [{Factor.B}, {Factor.A}, {Factor.B}, {Factor.A}]


def test_fedsb_sends_r_squared_numbers():
    strategy = built("fedsb")
    state = start(strategy)
    sent = state.adapter.tensors(strategy.trains(1) - {Factor.DENSE})
    assert {tuple(tensor.shape) for tensor in sent.values()} == {(RANK, RANK)}


def test_fedsb_needs_one_basis_for_all():
    """Why A and B are the coordinator's: with each client in its own gauge the mean of R is not the mean of ΔW."""
    strategy = built("fedsb")
    state = start(strategy)
    updates = updates_for(strategy, state)
    flip = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    flipped = Update(
        "other-gauge", 5.0,
        updates[1].adapter.with_tensors({
            f"{k}.{f}": t
            for k, layer in updates[1].adapter.layers.items()
            for f, t in (("B", layer.B_mr @ flip), ("A", flip @ layer.A_rn), ("R", flip @ layer.R_rr @ flip))
        }),
    )  # fmt: skip
    mixed = [updates[0], flipped]
    new = strategy.step(state, strategy.combine(mixed))
    assert not torch.allclose(new.adapter.layers["square"].dense(), ideal_dense(mixed)["square"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fedsvdd", {}, r"unknown strategy\.name 'fedsvdd'; did you mean 'fedsvd'\?"),
        ("nothing-like-it", {}, r"known: fair, fedex, fedit"),
        ("fair", {"penalty": 0}, r"strategy\.penalty must be greater than 0, got 0"),
        ("fedsvd", {"peroid": 2}, r"unknown setting strategy\.peroid; did you mean strategy\.period\?"),
    ],
)
def test_an_unknown_strategy_or_setting_is_refused_with_the_nearest(name, options, message):
    with pytest.raises(SettingsError, match=message):
        build(name, options)


def test_the_default_adapter_kind_is_plain_lora():
    assert AdapterSettings().kind == "lora"
