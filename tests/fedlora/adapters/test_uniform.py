"""One rank for every matrix: zeros change nothing, and what a rank does not hold is said."""

from __future__ import annotations

import pytest
import torch

from fedlora.adapters.uniform import changes, uniform
from fedlora.lowrank import Product
from fedlora.updates import Adapter, LowRank


def product(rank: int, *, size: int = 12, seed: int = 0) -> Product:
    draw = torch.Generator().manual_seed(seed)
    U_mp, V_pn = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((size, rank), (rank, size)))
    return Product(U_mp, V_pn)


def test_narrower_ones_get_zeros_up_to_the_least_rank_that_holds_all():
    products = {"one": product(1), "nine": product(9, seed=1), "none": product(0)}
    found = uniform(products)
    assert (found.rank, found.left_out) == (16, 0.0)
    for name, (B_mr, A_rn) in found.factors.items():
        assert (B_mr.shape, A_rn.shape) == ((12, 16), (16, 12))
        assert torch.equal(B_mr[:, : products[name].rank], products[name].U_mp.float())
        assert not B_mr[:, products[name].rank :].any()
        assert not A_rn[products[name].rank :].any()


def test_a_rank_above_all_that_servers_take_is_kept_as_it_is():
    found = uniform({"wide": product(513, size=600), "narrow": product(3, size=600)})
    assert (found.rank, found.left_out) == (513, 0.0)


def test_what_an_asked_rank_does_not_hold_is_the_least_possible_and_is_said_relative_to_everything():
    """Singular values 4, 3 and 1 in one matrix, 2 in the other: rank 1 leaves 3 and 1 out."""
    first = Product(torch.diag(torch.tensor([4.0, 3.0, 1.0])).double(), torch.eye(3, dtype=torch.float64))
    second = Product(torch.tensor([[2.0], [0.0], [0.0]]).double(), torch.tensor([[1.0, 0.0, 0.0]]).double())
    found = uniform({"first": first, "second": second}, rank=1)
    assert found.left_out == pytest.approx((10 / 30) ** 0.5)
    B_mr, A_rn = found.factors["first"]
    assert torch.allclose(B_mr @ A_rn, torch.diag(torch.tensor([4.0, 0.0, 0.0])), atol=1e-6)
    assert uniform({"first": first, "second": second}, rank=3).left_out == 0.0


def test_scale_core_and_residual_are_in_what_is_exported_and_directions_below_float32_are_not():
    draw = torch.Generator().manual_seed(0)
    B_mr, A_rn, R_rr = (torch.randn(shape, generator=draw) for shape in ((12, 2), (2, 12), (2, 2)))
    adapter = Adapter({"plain": LowRank(B_mr, A_rn, 2.5), "cored": LowRank(B_mr, A_rn, 2.5, R_rr)})
    tiny = Product(1e-9 * product(4).U_mp, product(4).V_pn)
    found = changes(adapter, {"plain": tiny})
    assert torch.allclose(found["plain"].dense(), 2.5 * (B_mr.double() @ A_rn.double()), atol=1e-6)
    assert found["plain"].rank == 2
    assert torch.allclose(found["cored"].dense(), 2.5 * (B_mr @ R_rr @ A_rn).double(), atol=1e-5)
