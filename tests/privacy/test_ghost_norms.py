"""Per-example gradients that are never formed: the same clipped sums, and no norm that looks smaller than it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fedlora.privacy import linears
from fedlora.privacy.ghost_norms import (
    PIECE,
    ROUNDING_IN_PIECES,
    FactoredGradient,
    at_least_squares,
    in_pieces,
    joined,
    only,
    outer_is_smaller,
    squares,
    weighted,
    without,
)
from fedlora.privacy.refusal import Refusal
from tests.privacy.models import Examples, classifier, looped_clipped_sum
from tests.privacy.test_engine import assert_no_example_moves_the_sum_by_more, distance, engine_of


def sides(
    n: int = 4, t: int = 3, o: int = 5, i: int = 7, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> FactoredGradient:
    draw = torch.Generator().manual_seed(seed)
    return FactoredGradient(
        *(torch.randn(n, t, side, generator=draw, dtype=torch.float64).to(dtype) for side in (o, i))
    )


@pytest.fixture
def never_formed(monkeypatch):
    """Every trained linear of the small models as if it were wide."""
    monkeypatch.setattr(linears, "outer_is_smaller", lambda positions, o, i: True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_norms_and_sums_are_those_of_the_formed_gradients(dtype):
    kept, near = sides(dtype=dtype), {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {}
    formed_noi = kept.formed()
    factors_n = torch.tensor([0.0, 0.5, 1.0, 2.0])
    assert kept.shape == tuple(formed_noi.shape) == (4, 5, 7)
    assert_close(squares(kept), squares(formed_noi), **near)
    assert_close(weighted(kept, factors_n), weighted(formed_noi, factors_n), **near)
    assert_close(only(kept, 2).formed(), formed_noi[2:3], **near)


def test_a_matrix_used_twice_has_one_gradient_of_more_positions():
    one, two = sides(seed=1), sides(seed=2, t=2)
    assert_close(joined([one, two]).formed(), one.formed() + two.formed())


def test_positions_that_cancel_never_make_a_norm_look_smaller_than_it_is():
    """G = g (x_1 - x_2) with x_1 nearly x_2: traces lose half of the digits, and what they may have lost is added."""
    draw = torch.Generator().manual_seed(3)
    g, x = (torch.randn(1, 1, side, generator=draw, dtype=torch.float64) for side in (96, 80))
    for gap in (1e-3, 1e-6, 1e-9, 1e-12, 0.0):
        kept = FactoredGradient(torch.cat([g, -g], 1), torch.cat([x, x * (1 + gap)], 1))
        assert float(squares(kept)) >= float(squares(kept.formed()))


@pytest.mark.parametrize(("size_g", "size_x"), [(1.0, 1.0), (1e-30, 1e15), (1e18, 1e19), (0.0, 1.0)])
@pytest.mark.parametrize("gap", [1.0, 1e-3, 1e-7, 0.0])
def test_norms_as_a_gpu_takes_them_never_look_smaller_either_and_hardly_larger(gap, size_g, size_x):
    """In float32, by pieces: cancelling positions, and numbers whose squares float32 does not have."""
    draw = torch.Generator().manual_seed(3)
    g_n1o, x_n1i = (
        torch.randn(2, 1, side, generator=draw) * size for side, size in ((96, size_g), (2 * PIECE, size_x))
    )
    kept = FactoredGradient(torch.cat([g_n1o, -g_n1o], 1), torch.cat([x_n1i, x_n1i * (1 + gap)], 1))
    exact = FactoredGradient(kept.g_nto.double(), kept.x_nti.double())
    found_n, least_n = at_least_squares(kept, in_pieces, ROUNDING_IN_PIECES), squares(exact.formed())
    bound_n = exact.g_nto.square().sum((1, 2)) * exact.x_nti.square().sum((1, 2))
    assert (found_n >= least_n).all()
    assert (found_n <= least_n + 2 * ROUNDING_IN_PIECES * bound_n).all()


def test_norms_as_a_gpu_takes_them_are_not_finite_where_a_number_is_not():
    kept = sides(dtype=torch.float32)
    kept.g_nto[1, 0, 0], kept.x_nti[2, 0, 0] = float("inf"), float("nan")
    assert at_least_squares(kept, in_pieces, ROUNDING_IN_PIECES).isfinite().tolist() == [True, False, False, True]


def test_examples_that_are_taken_out_leave_zeros_also_where_they_were_not_finite():
    kept = sides()
    kept.g_nto[1, 0, 0], kept.x_nti[1, 0, 0] = float("inf"), float("nan")
    cleaned = without(kept, torch.tensor([False, True, False, False]))
    assert torch.isfinite(weighted(cleaned, torch.ones(4))).all()
    assert not only(cleaned, 1).formed().any()
    assert torch.isnan(kept.x_nti[1, 0, 0])  # an activation may be someone else's: nothing is written into it


@pytest.mark.parametrize(
    ("positions", "o", "i", "smaller"),
    [(48, 384, 384, True), (97, 384, 384, False), (48, 384, 8, False), (1, 3, 384, False), (1, 64, 64, True)],
)
def test_only_wide_matrices_are_not_formed(positions, o, i, smaller):
    assert outer_is_smaller(positions, o, i) == smaller


@pytest.mark.usefixtures("never_formed")
@pytest.mark.parametrize("trains", ["ABH", "AB", "A", "B", "R", "RH", "H"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("checkpoint", [None, False, True])
def test_clipped_sums_equal_a_loop_over_examples(trains, dtype, bound, checkpoint):
    examples, indices = Examples(9), torch.arange(9)
    model = classifier(trains=trains, dtype=dtype)
    expected = looped_clipped_sum(model, examples.loss(model), indices, clip=0.5)
    model.checkpoint = checkpoint
    with engine_of(model) as engine:
        assert distance(engine.clipped_sum(indices, examples.loss(model)), expected) < bound
        kept = engine._gradients(indices, examples.loss(model))
        assert all(
            (type(given) is FactoredGradient) == (parameter.dim() == 2) for parameter, given in kept.items()
        )  # no biases


@pytest.mark.usefixtures("never_formed")
@pytest.mark.parametrize("clip", [0.01, 0.5, 100.0])
def test_removing_one_example_moves_the_clipped_sum_by_at_most_clip(clip):
    assert_no_example_moves_the_sum_by_more(clip)


@pytest.mark.usefixtures("never_formed")
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_an_example_with_a_nonfinite_gradient_moves_it_by_zero_and_is_counted(poison):
    examples, model = Examples(6), classifier()
    loss, scale = examples.loss(model), torch.ones(6)
    scale[2] = poison
    with engine_of(model) as engine:
        honest = engine.clipped_sum(torch.tensor([0, 1, 3, 4, 5]), loss)
        assert distance(engine.clipped_sum(torch.arange(6), lambda i: loss(i) * scale[i]), honest) < 1e-6
        assert engine.nonfinite_examples == 1


@pytest.mark.usefixtures("never_formed")
def test_under_autocast_sums_are_float32_and_close():
    examples, indices, model = Examples(8), torch.arange(8), classifier()
    loss = examples.loss(model)
    expected = looped_clipped_sum(model, loss, indices, clip=0.5)

    def under_autocast(piece):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss(piece)

    with engine_of(model, 8) as engine:
        found = engine.clipped_sum(indices, under_autocast)
        engine.step(under_autocast)
        assert {p.grad.dtype for p in found} == {torch.float32}
        assert distance(found, expected) < 0.03
        engine._steps = 0


@pytest.mark.usefixtures("never_formed")
def test_a_layer_called_twice_is_clipped_as_one():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            return self.inner(torch.tanh(self.inner(x)))

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(5, 3, 6, dtype=torch.float64)

    def loss(indices):
        return model(x[indices]).square().mean((1, 2))

    expected = looped_clipped_sum(model, loss, torch.arange(5), clip=0.05)
    with engine_of(model, clip=0.05) as engine:
        assert distance(engine.clipped_sum(torch.arange(5), loss), expected) < 1e-11


def test_a_layer_used_at_few_positions_and_at_many_is_clipped_as_one(monkeypatch):
    """Kept as its sides where it is given one position, formed where it is given all three."""
    monkeypatch.setattr(linears, "outer_is_smaller", lambda positions, o, i: positions == 1)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6, bias=False)

        def forward(self, x):
            return self.inner(x).mean(1) * self.inner(x[:, :1]).squeeze(1)

    torch.manual_seed(0)
    model, x = Twice().double(), torch.randn(5, 3, 6, dtype=torch.float64)

    def loss(indices):
        return model(x[indices]).square().mean(1)

    expected = looped_clipped_sum(model, loss, torch.arange(5), clip=0.05)
    with engine_of(model, clip=0.05) as engine:
        assert distance(engine.clipped_sum(torch.arange(5), loss), expected) < 1e-11


@pytest.mark.usefixtures("never_formed")
def test_an_input_that_is_written_into_after_its_use_is_refused():
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            hidden = x * 1.0
            out = self.inner(hidden)
            hidden += 1.0
            return out + hidden

    model, x = InPlace(), torch.randn(5, 3, 6)
    with engine_of(model) as engine, pytest.raises(Refusal, match=r"changed in place after its use.*x = x \+ y"):
        engine.clipped_sum(torch.arange(5), lambda i: model(x[i]).square().mean((1, 2)))


def test_a_clipped_gradient_of_positions_that_cancel_is_no_longer_than_one():
    draw = torch.Generator().manual_seed(0)
    for gap in (1e-5, 1e-6, 5e-7):
        g, x = (torch.randn(1, 1, side, generator=draw) for side in (96, 80))
        kept = FactoredGradient(torch.cat([g, -g * (1 + gap)], 1), torch.cat([x, x], 1))
        to_one_n = 1 / squares(kept).sqrt()
        assert float(weighted(kept, to_one_n).norm()) <= 1 + 1e-6
