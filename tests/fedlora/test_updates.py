"""Flat names, canonical order, and small arithmetic on named tensors."""

from __future__ import annotations

import pytest
import torch

from fedlora.updates import Adapter, Factor, LowRank, add, norm, subtract


def adapter() -> Adapter:
    layer = LowRank(B_mr=torch.ones(3, 2), A_rn=2 * torch.ones(2, 4), scale=0.5)
    return Adapter({"b": layer, "a": layer}, {"head/weight": torch.zeros(2)})


def test_tensors_are_named_and_ordered_canonically():
    assert list(adapter().tensors()) == ["a.A", "a.B", "b.A", "b.B", "head/weight"]
    assert list(adapter().tensors([Factor.B])) == ["a.B", "b.B"]


def test_dense_is_scale_times_b_times_a():
    assert torch.equal(adapter().layers["a"].dense(), torch.full((3, 4), 2.0).double())


def test_ranks_may_change_together_but_must_agree():
    changed = adapter().with_tensors({"a.A": torch.ones(5, 4), "a.B": torch.ones(3, 5)})
    assert changed.layers["a"].rank == 5
    with pytest.raises(ValueError, match="ranks must agree"):
        adapter().with_tensors({"a.A": torch.ones(5, 4)})


@pytest.mark.parametrize("name", ["c.A", "head/bias", "a.R"])
def test_a_name_that_is_not_there_is_refused(name):
    with pytest.raises(KeyError):
        adapter().with_tensors({name: torch.ones(1)})


def test_add_subtract_and_norm():
    x = {"t": torch.tensor([3.0, 4.0])}
    assert norm(x) == 5.0
    assert torch.equal(add(x, x, scale=2.0)["t"], torch.tensor([9.0, 12.0]))
    assert torch.equal(subtract(x, x)["t"], torch.zeros(2))
    with pytest.raises(KeyError, match="names differ"):
        add(x, {"u": x["t"]})
