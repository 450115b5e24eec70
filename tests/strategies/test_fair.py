"""LoRA-FAIR: the minimisers against descent on the dense objective, and every case that has no cosine."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedlora.lowrank import Product
from fedlora.norms import approximate_size
from fedlora.updates import LowRank, Update
from strategies.refinement import Columns, Penalty, Stopping, inner, most_similar, nearest
from tests.strategies.examples import SCALE, built, ideal_dense, random_adapter, start, updates_for

EXACT = Stopping(tolerance=1e-10)


def problem(seed: int = 0, m: int = 9, n: int = 11, r: int = 3):
    """M, B and A as they might be, and G = M Aᵀ."""
    draw = torch.Generator().manual_seed(seed)
    M, B = (torch.randn(*s, generator=draw, dtype=torch.float64) for s in ((m, n), (m, r)))
    A = torch.randn(r, n, generator=draw, dtype=torch.float64)
    return M, B, A, M @ A.mT


def descend(objective, X, steps: int = 4000):
    """The slow clear twin: L-BFGS on the dense objective."""
    X = X.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [X], max_iter=steps, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(X)
        loss.backward()
        return loss

    optimizer.step(closure)
    return X.detach()


def cosine(M, product):
    return float((M * product).sum() / (M.norm() * product.norm()))


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 1.0])
def test_the_frobenius_closed_form_is_the_minimiser(penalty):
    M, B, A, G = problem()
    found = nearest(B, A, G, Penalty(penalty))
    twin = descend(lambda X: 0.5 * (M - X @ A).square().sum() + penalty * (X - B).square().sum(), B)
    assert_close(found, twin, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 10.0])
def test_the_frobenius_minimiser_under_the_norm_is_stationary(penalty):
    """The objective is convex and smooth away from B: where its gradient is zero is the minimum."""
    M, B, A, G = problem()
    X = nearest(B, A, G, Penalty(penalty, "norm")).requires_grad_()
    (0.5 * (M - X @ A).square().sum() + penalty * (X - B).norm()).backward()
    assert float(X.grad.norm()) < 1e-8


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cosine_is_at_least_as_good_as_descent_on_the_dense_objective(penalty, seed):
    M, B, A, G = problem(seed)

    def objective(X):
        return 1 - (M * (X @ A)).sum() / (M.norm() * (X @ A).norm()) + penalty * (X - B).square().sum()

    found = most_similar(B, A, G, float(M.norm()), Penalty(penalty), EXACT)
    assert float(objective(found)) <= float(objective(B))
    assert float(objective(found)) == pytest.approx(float(objective(descend(objective, B))), abs=1e-7)


@pytest.mark.parametrize("penalty", [0.01, 0.1])
def test_the_two_scalars_of_the_cosine_are_stationary_where_descent_ends(penalty):
    """κ = c / (D² μ) and γ = 1 / (N D μ) of the dense minimiser: objective, moments and conditions are those of it."""
    M, B, A, G = problem()

    def objective(X):
        return 1 - (M * (X @ A)).sum() / (M.norm() * (X @ A).norm()) + penalty * (X - B).square().sum()

    X = descend(objective, B)
    h, P = torch.linalg.eigh(A @ A.mT)
    columns = Columns(
        h.numpy(), inner(B @ P, B @ P), inner(B @ P, G @ P), inner(G @ P, G @ P), float(M.norm()), Penalty(penalty)
    )
    c, N, D, mu = cosine(M, X @ A), float(M.norm()), float((X @ A).norm()), 2 * penalty
    kappa, gamma = c / (D**2 * mu), 1 / (N * D * mu)
    gx, size, moved = columns.moments(kappa, gamma)
    assert (gx, size, moved) == pytest.approx(
        (float((G * X).sum()), D, float((X - B).square().sum())), rel=1e-4, abs=1e-8
    )
    assert columns.objective((kappa, math.log(gamma))) == pytest.approx(float(objective(X)), abs=1e-9)
    assert columns.stationarity((kappa, math.log(gamma))) == pytest.approx([0.0, 0.0], abs=1e-4)
    assert columns.at_start() == pytest.approx(1 - cosine(M, B @ A), abs=1e-12)


@pytest.mark.parametrize("penalty", [1e-3, 0.01, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_cosine_under_the_norm_is_at_least_as_good_as_descent(penalty, seed):
    noise, B, A, _ = problem(seed)
    M = B @ A + noise  # near B A, as a mean of products is: far from it, X = B can be one of two minima
    G = M @ A.mT

    def objective(X):
        return 1 - (M * (X @ A)).sum() / (M.norm() * (X @ A).norm()) + penalty * (X - B).norm()

    found = most_similar(B, A, G, float(M.norm()), Penalty(penalty, "norm"), EXACT)
    twin = descend(objective, B + 0.01 * torch.ones_like(B))
    assert float(objective(found)) <= min(float(objective(B)), float(objective(twin))) + 1e-7


@pytest.mark.parametrize("metric", ["frobenius", "cosine"])
def test_under_the_norm_nothing_moves_where_lambda_is_at_least_the_gradient(metric):
    M, B, A, G = problem()
    X = B.clone().requires_grad_()
    product = X @ A
    distance = 0.5 * (M - product).square().sum()
    (distance if metric == "frobenius" else 1 - (M * product).sum() / (M.norm() * product.norm())).backward()
    edge = float(X.grad.norm())
    for penalty, moves in ((edge * 1.001, False), (edge * 0.98, True)):
        given = Penalty(penalty, "norm")
        found = nearest(B, A, G, given) if metric == "frobenius" else most_similar(B, A, G, float(M.norm()), given)
        assert torch.equal(found, B) != moves


def test_no_cosine_passes_that_of_the_row_space():
    M, B, A, G = problem()
    found = most_similar(B, A, G, float(M.norm()), Penalty(1e-6), EXACT)
    Q, _ = torch.linalg.qr(A.mT)
    bound = float((M @ Q).norm() / M.norm())
    assert bound * 0.999 < cosine(M, found @ A) <= bound + 1e-12


@pytest.mark.parametrize("metric", ["cosine", "frobenius"])
@pytest.mark.parametrize("penalty_form", ["squared", "norm"])
def test_it_comes_closer_to_the_ideal_than_fedit(metric, penalty_form):
    fair, fedit = built("fair", metric=metric, penalty_form=penalty_form), built("fedit")
    state = start(fedit)
    updates = updates_for(fedit, state)
    refined = fair.step(state, fair.combine(updates)).adapter
    averaged = fedit.step(state, fedit.combine(updates)).adapter
    for key, wanted in ideal_dense(updates).items():
        assert cosine(wanted, refined.layers[key].dense()) > cosine(wanted, averaged.layers[key].dense())


def test_lambda_is_not_scale_free():
    """B multiplied by t needs λ / t²: what the setting's manual says."""
    M, B, A, G = problem()
    one = most_similar(B, A, G, float(M.norm()), Penalty(0.01), EXACT)
    ten = most_similar(10 * B, A, G, float(M.norm()), Penalty(0.01 / 100), EXACT)
    assert_close(ten, 10 * one, atol=1e-5, rtol=1e-5)


def test_the_scale_of_the_layers_cancels():
    fair = built("fair")
    state = start(fair)
    updates = updates_for(fair, state)
    at_one = [{k: replace(layer, scale=1.0) for k, layer in u.adapter.layers.items()} for u in updates]
    scaled = [
        Update(u.client, u.weight, replace(u.adapter, layers=layers)) for u, layers in zip(updates, at_one, strict=True)
    ]
    one, other = (fair.step(state, fair.combine(given)).adapter for given in (updates, scaled))
    assert SCALE != 1.0
    for key in one.layers:
        assert_close(one.layers[key].B_mr, other.layers[key].B_mr, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "frobenius"])
@pytest.mark.parametrize("penalty_form", ["squared", "norm"])
@pytest.mark.parametrize(
    ("case", "refined"),
    [
        ("no client trained: B = 0", False),
        ("the clients' A cancel: A' = 0", False),
        ("B' A' = 0 between factors that are not zero", True),
        ("the clients' A nearly cancel", True),
        ("a column of A' is zero: an input that nothing uses", True),
    ],
)
def test_where_there_is_no_cosine_the_mean_stays_and_nothing_is_ever_not_finite(metric, penalty_form, case, refined):
    fair = built("fair", metric=metric, penalty_form=penalty_form)
    draw = torch.Generator().manual_seed(5)
    m, n, r = 6, 8, 2
    B_mr, C_mr = (torch.randn(m, r, generator=draw, dtype=torch.float64) for _ in range(2))
    A_rn = torch.randn(r, n, generator=draw, dtype=torch.float64)
    pairs = [(B_mr, A_rn), (C_mr, A_rn)]
    if case.startswith("no client"):
        pairs = [(0 * B_mr, A_rn), (0 * B_mr, A_rn)]
    elif case.startswith("the clients' A cancel"):
        pairs = [(B_mr, A_rn), (C_mr, -A_rn)]
    elif case.startswith("B' A'"):
        pairs = [(B_mr * torch.tensor([1.0, 0.0]), A_rn * torch.tensor([[1.0], [0.0]]))] * 2
        pairs = [(torch.stack([0 * B[:, 0], B[:, 0]], 1), A) for B, A in pairs]
        pairs = [(pairs[0][0] + B_mr, A_rn), (pairs[0][0] - B_mr, 0 * A_rn + pairs[0][1])]
    elif case.startswith("the clients' A nearly"):
        pairs = [(B_mr, A_rn), (C_mr, -A_rn + 1e-9 * torch.randn(r, n, generator=draw, dtype=torch.float64))]
    else:
        A_rn[:, 0] = 0
        pairs = [(B_mr, A_rn), (C_mr, A_rn + torch.randn(r, n, generator=draw, dtype=torch.float64) * (A_rn != 0))]
    whole = random_adapter(0)
    updates = [
        Update(str(k), 1.0, replace(whole, layers={"w": LowRank(B, A, SCALE)})) for k, (B, A) in enumerate(pairs)
    ]
    state = fair.init(updates[0].adapter)
    served = fair.step(state, fair.combine(updates)).adapter.layers["w"]
    mean = sum(B for B, _ in pairs) / 2
    assert torch.isfinite(served.B_mr).all()
    assert refined or torch.equal(served.B_mr, mean)


def test_a_product_of_zero_between_factors_that_are_not_has_no_cosine():
    B = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    A = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    G = torch.ones(2, 2, dtype=torch.float64)
    assert torch.equal(most_similar(B, A, G, 1.0, Penalty(0.01)), B)


@pytest.mark.parametrize(("rank", "block"), [(5, 2), (6, 2), (7, 100)])
def test_a_size_by_traces_is_that_of_the_matrix(rank, block):
    draw = torch.Generator().manual_seed(rank)
    U, V = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((9, rank), (rank, 11)))
    assert approximate_size(Product(U, V), block=block) == pytest.approx(float((U @ V).norm()), rel=1e-12)


def test_a_size_by_traces_never_has_a_negative_root():
    U = torch.tensor([[1.0, -1.0]] * 3, dtype=torch.float64)
    V = torch.tensor([[1.0, 1e-9, 1.0], [1.0, 1e-9, 1.0]], dtype=torch.float64)
    assert approximate_size(Product(U, V)) < 1e-7
