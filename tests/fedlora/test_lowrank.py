"""Sums of products: the fast ways to look at one against the matrix itself."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.lowrank import Product, Sum

M, N, R = 7, 9, 2


def product(seed: int, *, rank: int = R, dtype: torch.dtype = torch.float64) -> Product:
    draw = torch.Generator().manual_seed(seed)
    U, V = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((M, rank), (rank, N)))
    return Product(U.to(dtype), V.to(dtype))


@pytest.mark.parametrize(("terms", "dense"), [(1, False), (3, False), (5, True)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)])
def test_a_sum_times_a_matrix_is_that_of_its_weighted_terms(terms, dense, dtype, near):
    """5 terms of rank 2 pass min(7, 9): the sum is one dense matrix from there on."""
    total, X = Sum(), torch.randn(N, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wanted = torch.zeros(M, N, dtype=torch.float64)
    for index in range(terms):
        total.add_product("w", product(index, dtype=dtype), weight=1.0 + index)
        wanted += (1.0 + index) / 4.0 * product(index, dtype=dtype).dense()
    total.divide({"w": 4.0})
    assert ("w" in total._dense) == dense
    assert_close(total.times("w", X).double(), wanted @ X, atol=near * 10, rtol=near)
    assert_close(total["w"].dense(), wanted, atol=near * 10, rtol=near)
