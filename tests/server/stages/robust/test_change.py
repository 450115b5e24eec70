"""What is measured on ΔW does not see how it is factored."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from fedlora.lowrank import Product
from fedlora.norms import dense_gram, gram
from fedlora.updates import Factor, subtract
from server.stages.robust.change import change, distances_of, squared_distances
from server.stages.robust.multi_krum import krum_scores
from server.stages.robust.screening import median_distances
from tests.server.stages.robust.examples import BOTH, flat, honest, regauged
from tests.strategies.examples import random_adapter


def test_inner_products_are_those_of_the_dense_products():
    products = [Product(torch.randn(9, r).double(), torch.randn(r, 5).double()) for r in (1, 4, 2)]
    assert_close(gram(products), dense_gram(products))


def test_one_by_one_numbers_that_can_be_checked_in_the_head():
    products = [
        Product(torch.tensor([[2.0]]), torch.tensor([[3.0]])),
        Product(torch.tensor([[-1.0]]), torch.ones(1, 1)),
    ]
    assert gram(products).tolist() == [[36.0, -6.0], [-6.0, 1.0]]
    assert distances_of(gram(products)).tolist() == [[0.0, 49.0], [49.0, 0.0]]


@pytest.mark.parametrize("factors", [BOTH, (Factor.B, Factor.DENSE), (Factor.A,)])
def test_distances_and_norms_equal_those_of_the_dense_changes(factors):
    sent, updates = honest(4, factors=factors)
    changes = [change(update.adapter, sent) for update in updates]
    dense = torch.stack([flat(update.adapter) - flat(sent) for update in updates])
    assert_close(torch.tensor([found.norm for found in changes]).double(), dense.norm(dim=1))
    assert_close(squared_distances(changes), torch.cdist(dense, dense).square(), atol=1e-9, rtol=1e-9)


def test_a_core_moves_the_matrix_between_its_fixed_factors():
    sent, after = random_adapter(0, core=True), random_adapter(0, core=True)
    after = after.with_tensors({n: t + 0.1 for n, t in after.tensors([Factor.R]).items()})
    dense = torch.cat([(after.layers[n].dense() - sent.layers[n].dense()).flatten() for n in sent.layers])
    assert change(after, sent).norm == pytest.approx(float(dense.norm()))


def test_scores_and_norms_do_not_depend_on_the_gauge():
    sent, updates = honest(7)
    ours = [change(update.adapter, sent) for update in updates]
    theirs = [change(regauged(update, seed).adapter, sent) for seed, update in enumerate(updates)]
    assert [found.norm for found in theirs] == pytest.approx([found.norm for found in ours])
    squared, regauged_squared = squared_distances(ours), squared_distances(theirs)
    assert_close(krum_scores(regauged_squared, attackers=2), krum_scores(squared, attackers=2))
    assert_close(median_distances(regauged_squared), median_distances(squared))


def test_a_change_of_nothing_is_exactly_zero():
    sent = random_adapter(0)
    assert change(sent, sent).norm == 0.0
    assert subtract(sent.tensors(), sent.tensors())["head/bias"].abs().max() == 0
