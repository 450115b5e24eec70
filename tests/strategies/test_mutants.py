"""The properties bite: each well-known mistake, made on purpose, is caught by the test that should catch it."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch

from fedlora import lowrank
from fedlora.lowrank import Product, scaled, svd, zero
from fedlora.updates import Adapter
from strategies import fedex, fedsb, fedsvd, flexlora, versions
from tests.strategies import test_papers, test_properties, test_versions


def transposed(product: Product) -> Product:
    return Product(product.V_pn.mT, product.U_mp.mT) if product.shape[0] == product.shape[1] else product


def sqrt_split(layer, ideal):
    U, S, Vh = svd(ideal)
    root = S[: layer.rank].sqrt()
    return replace(layer, A_rn=root[:, None] * Vh[: layer.rank], B_mr=U[:, : layer.rank] * root / layer.scale)


def forgotten_scale(layer, ideal):
    made = flexlora_factored(layer, ideal)
    return replace(made, B_mr=made.B_mr * layer.scale)


flexlora_factored = flexlora.factored
spread_residual = fedex.ResidualAccumulator.residual
MEANS = {"fedit": "weighted_mean", "flora": "mean_over_holders"}
"""What a strategy averages with, where it is not `factor_mean`."""


def average_uniformly(monkeypatch, name: str) -> None:
    module, function = importlib.import_module(f"strategies.{name}"), MEANS.get(name, "factor_mean")
    honest = getattr(module, function)
    monkeypatch.setattr(module, function, lambda updates, weighting: honest(updates, "uniform"))


def change_residual(change):
    return lambda self, mean, total: {k: change(p) for k, p in spread_residual(self, mean, total).items()}


def test_a_transposed_residual_on_a_square_layer_is_caught(monkeypatch):
    monkeypatch.setattr(fedex.ResidualAccumulator, "residual", change_residual(transposed))
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedex")


@pytest.mark.parametrize("factor", [2.0, 0.0, 1 / 2.5])
def test_a_doubled_omitted_or_unscaled_residual_is_caught(monkeypatch, factor):
    monkeypatch.setattr(fedex.ResidualAccumulator, "residual", change_residual(lambda product: scaled(product, factor)))
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedex")


@pytest.mark.parametrize("mutant", [sqrt_split, forgotten_scale])
def test_a_square_root_split_or_a_forgotten_scale_in_flexlora_is_caught(monkeypatch, mutant):
    monkeypatch.setattr(flexlora, "factored", mutant)
    with pytest.raises(AssertionError):
        test_papers.test_flexlora_serves_the_best_approximation_with_all_of_s_in_b()


@pytest.mark.parametrize("name", ["fedit", "ffa", "fedsvd", "fedsb", "fedex"])
def test_uniform_for_weighted_is_caught(monkeypatch, name):
    average_uniformly(monkeypatch, name)
    with pytest.raises(AssertionError):
        test_properties.test_the_head_is_the_weighted_mean(name)


@pytest.mark.parametrize("name", ["ffa", "fedsvd", "fedsb", "flora"])
def test_uniform_for_weighted_factors_are_caught(monkeypatch, name):
    average_uniformly(monkeypatch, name)
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round(name)


def test_a_uniform_residual_beside_a_weighted_mean_is_caught(monkeypatch):
    honest = fedex.ResidualAccumulator.add
    monkeypatch.setattr(fedex.ResidualAccumulator, "add", lambda self, update, weight: honest(self, update, 1.0))
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedex")


def test_a_residual_that_is_merged_and_kept_too_is_caught(monkeypatch):
    """Doubled by the coordinator: in the sum of the past, and still one of the newest."""
    honest = versions.with_added
    monkeypatch.setattr(versions, "with_added", lambda past, residual: honest(honest(past, residual), residual))
    with pytest.raises(AssertionError):
        test_versions.test_every_version_ends_where_the_sum_of_all_residuals_does(2)


def test_averaging_a_and_b_in_the_place_of_an_exact_strategy_is_caught(monkeypatch):
    monkeypatch.setattr(fedex.ResidualAccumulator, "residual", change_residual(lambda product: zero(product.shape)))
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedex")


def test_a_strategy_that_writes_into_its_arguments_is_caught(monkeypatch):
    def in_place(self, state, combined):
        for name, tensor in state.adapter.tensors().items():
            tensor.copy_(combined.mean.tensors()[name])
        return state

    monkeypatch.setattr("strategies.fedit.FedIT.step", in_place)
    with pytest.raises(AssertionError):
        test_properties.test_arguments_are_left_alone("fedit")


def test_a_dense_svd_that_leaves_the_row_space_is_caught(monkeypatch):
    from tests.strategies import test_fedsvd

    def dense(layer):
        U, S, Vh = torch.linalg.svd(layer.B_mr @ layer.A_rn, full_matrices=False)
        r = layer.rank
        return replace(layer, A_rn=Vh[:r], B_mr=U[:, :r] * S[:r])

    monkeypatch.setattr(test_fedsvd, "refactored", dense)
    with pytest.raises(AssertionError):
        test_fedsvd.test_a_never_leaves_its_row_space_even_when_b_is_rank_deficient((10, 10, 3), 1)


def test_independent_gauges_in_fed_sb_are_caught(monkeypatch):
    """Each client with factors of its own: signs and rotations differ, and the mean of R is not the mean of ΔW."""
    honest = fedsb.FedSB.combine

    def in_own_gauges(self, updates):
        def turned(index, update):
            generator = torch.Generator().manual_seed(index)
            layers = {}
            for name, layer in update.adapter.layers.items():
                Q, _ = torch.linalg.qr(torch.randn(layer.rank, layer.rank, generator=generator, dtype=torch.float64))
                layers[name] = replace(layer, R_rr=Q.mT @ layer.R_rr @ Q)  # what it would send with B Q and Qᵀ A
            return replace(update, adapter=replace(update.adapter, layers=layers))

        return honest(self, [turned(index, update) for index, update in enumerate(updates)])

    monkeypatch.setattr(fedsb.FedSB, "combine", in_own_gauges)
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedsb")


def test_a_square_root_split_in_fedsvd_is_caught(monkeypatch):
    from tests.strategies import test_fedsvd

    def split(layer):
        made = fedsvd.refactored(layer)
        root = torch.linalg.vector_norm(made.B_mr, dim=0).sqrt()
        return replace(made, A_rn=root[:, None] * made.A_rn, B_mr=made.B_mr / root)

    monkeypatch.setattr(test_fedsvd, "refactored", split)
    with pytest.raises(AssertionError):
        test_fedsvd.test_the_product_is_kept_rows_are_orthonormal_and_columns_orthogonal_and_descending((10, 10, 3))


def test_a_scale_that_is_forgotten_in_a_sum_is_caught(monkeypatch):
    honest = lowrank.Sum.add

    def unscaled(self, adapter, weight):
        honest(self, replace(adapter, layers={k: replace(v, scale=1.0) for k, v in adapter.layers.items()}), weight)

    monkeypatch.setattr(lowrank.Sum, "add", unscaled)
    with pytest.raises(AssertionError):
        test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("flora")


def test_the_mutants_are_made_of_the_real_things():
    assert isinstance(Adapter({}).tensors(), dict)
    test_properties.test_exact_strategies_serve_the_weighted_mean_of_delta_w_every_round("fedex")
    test_papers.test_flexlora_serves_the_best_approximation_with_all_of_s_in_b()
