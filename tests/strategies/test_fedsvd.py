"""FedSVD's own invariants, and what it is: FFA-LoRA with an orthonormal A, up to a rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fedlora.settings import SettingsError
from fedlora.updates import Adapter, LowRank, Update
from strategies.fedsvd import orthonormalised, refactored
from tests.strategies.examples import built, start, updates_for


def layer(m: int, n: int, r: int, *, rank: int | None = None) -> LowRank:
    draw = torch.Generator().manual_seed(m * n + r)
    B_mr = torch.randn(m, r, generator=draw, dtype=torch.float64)
    if rank is not None:
        B_mr = B_mr[:, :rank] @ torch.randn(rank, r, generator=draw, dtype=torch.float64)
    return LowRank(B_mr, torch.randn(r, n, generator=draw, dtype=torch.float64), 2.0)


SHAPES = [(10, 10, 3), (12, 5, 4), (5, 12, 4), (4, 4, 4), (7, 9, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_kept_rows_are_orthonormal_and_columns_orthogonal_and_descending(shape):
    before = layer(*shape)
    after = refactored(before)
    assert_close(after.dense(), before.dense(), atol=1e-10, rtol=1e-10)
    assert_close(after.A_rn @ after.A_rn.mT, torch.eye(shape[2], dtype=torch.float64), atol=1e-12, rtol=0)
    gram = after.B_mr.mT @ after.B_mr
    assert_close(gram, torch.diag(gram.diagonal()), atol=1e-9, rtol=0)
    assert torch.all(gram.diagonal().diff() <= 1e-12)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5])
def test_rows_are_orthonormal_to_the_last_digits_however_near_those_of_a_were(spread):
    """A Cholesky factor of A Aᵀ would be off by 1e-6 where two rows differ by 1e-5."""
    A_rn = layer(9, 14, 3).A_rn
    A_rn[2] = A_rn[0] + spread * A_rn[2]
    L_rr, Q_rn = orthonormalised(A_rn)
    assert_close(Q_rn @ Q_rn.mT, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert_close(L_rr @ Q_rn, A_rn, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [None, 1])
def test_a_never_leaves_its_row_space_even_when_b_is_rank_deficient(shape, rank):
    before = layer(*shape, rank=rank)
    after = refactored(before)
    Q, _ = torch.linalg.qr(before.A_rn.mT)
    assert_close(after.A_rn @ Q @ Q.mT, after.A_rn, atol=1e-10, rtol=0)


def test_an_untrained_layer_keeps_its_a():
    before = replace(layer(6, 8, 2), B_mr=torch.zeros(6, 2, dtype=torch.float64))
    assert refactored(before) is before


def test_the_dense_svd_is_its_slow_twin():
    before = layer(9, 11, 3)
    U, S, Vh = torch.linalg.svd(before.B_mr @ before.A_rn, full_matrices=False)
    after = refactored(before)
    assert_close(after.A_rn.mT @ after.A_rn, Vh[:3].mT @ Vh[:3], atol=1e-10, rtol=0)
    assert_close(torch.linalg.vector_norm(after.B_mr, dim=0), S[:3])
    assert U.shape == (9, 9)


def test_signs_do_not_depend_on_the_signs_of_the_factors():
    before = layer(6, 8, 3)
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    flipped = replace(before, B_mr=before.B_mr * flip, A_rn=before.A_rn * flip[:, None])
    assert_close(refactored(before).A_rn, refactored(flipped).A_rn, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", [(3, 9), (9, 3)])
def test_a_rank_above_a_side_is_refused_because_rows_cannot_be_orthonormal(shape):
    with pytest.raises(SettingsError, match=r"set adapter\.r <= 3, it is 4"):
        built("fedsvd").init(Adapter({"w": layer(*shape, 4)}))


def test_the_period_says_how_often():
    strategy = built("fedsvd", period=2)
    state = start(strategy)
    orthogonal = []
    for number in range(1, 5):
        state = strategy.step(state, strategy.combine(updates_for(strategy, state, round_number=number)))
        gram = state.adapter.layers["square"].B_mr.mT @ state.adapter.layers["square"].B_mr
        orthogonal.append(bool(torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-9)))
    assert orthogonal == [False, True, False, True]


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_under_sgd_it_is_ffa_with_an_orthonormal_a(noise):
    """The same trajectory of ΔW, because A only rotates; clipping by the Frobenius norm does not change that.

    Clients take SGD steps on a least-squares loss; the noise is isotropic, and rotated with A, so that both see one.
    """
    torch.manual_seed(0)
    m, n, r, clients = 8, 10, 3, 3
    targets = [torch.randn(m, n, dtype=torch.float64) for _ in range(clients)]
    Q, _ = torch.linalg.qr(torch.randn(n, r, dtype=torch.float64))
    first = Adapter({"w": LowRank(torch.zeros(m, r, dtype=torch.float64), Q.mT.contiguous(), 1.0)})
    fedsvd, ffa = built("fedsvd"), built("ffa")
    states = {"fedsvd": fedsvd.init(first), "ffa": ffa.init(first)}
    for _ in range(6):
        draws = [torch.randn(m, r, dtype=torch.float64) for _ in range(clients)]
        for name, strategy in (("fedsvd", fedsvd), ("ffa", ffa)):
            adapter = states[name].adapter
            A, B = adapter.layers["w"].A_rn, adapter.layers["w"].B_mr
            rotation = A @ states["ffa"].adapter.layers["w"].A_rn.mT
            updates = []
            for client, target in enumerate(targets):
                gradient = (B @ A - target) @ A.mT
                gradient = gradient * min(1.0, 2.0 / float(gradient.norm()))
                step = gradient + noise * draws[client] @ rotation.mT
                updates.append(Update(str(client), 1.0, adapter.with_tensors({"w.B": B - 0.2 * step})))
            states[name] = strategy.step(states[name], strategy.combine(updates))
        deltas = [states[name].adapter.layers["w"].dense() for name in ("fedsvd", "ffa")]
        assert_close(*deltas, atol=1e-9, rtol=1e-9)
