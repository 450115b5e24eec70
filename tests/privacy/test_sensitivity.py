"""One example moves the clipped sum by at most C: the demo model, the packaged private recipes, real texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from _pytest.mark.structures import ParameterSet

from fedlora.privacy.sensitivity import sensitivity, sensitivity_by_piece
from tests.privacy.shipped import PRIVATE_RECIPES, shipped
from tests.token_examples import token_ids

BOUND = 1 + 1e-4
"""Of C, in float32; what bfloat16 leaves is in docs/privacy.md."""


@pytest.mark.parametrize("name", PRIVATE_RECIPES)
def test_one_text_moves_the_clipped_sum_by_at_most_clip(name):
    """Every text is clipped to C exactly and none changes another's gradient: leaving one out moves the sum by C."""
    subject = shipped(name, examples=12)
    with subject.steps() as (engine, loss):
        found = sensitivity(engine, loss, torch.arange(12), leaving_out=(0, 7))
    assert 0.5 < found.largest <= BOUND


@pytest.mark.parametrize("gradients", ["fedlora", "opacus"])
def test_the_model_s_own_dropout_is_on_and_changes_nothing(gradients):
    """The demo model has dropout 0.1 in every layer: drawn in the batch's order, it moved the sum by 1.5 C and more."""
    subject = shipped("private-ffa", examples=10)
    dropouts = [m for m in subject.model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    assert dropouts
    subject.model.train()
    with subject.steps(gradients=gradients) as (engine, loss):
        found = sensitivity(engine, loss, torch.arange(10), leaving_out=(0,))
    assert found.largest <= BOUND
    assert all(m.training and m.p > 0 for m in dropouts), "and it is there again for whoever trains without privacy"


@pytest.mark.slow
@pytest.mark.long
def test_opacus_hooks_take_bfloat16_too():
    subject = shipped("private-ffa", "model.dtype=bfloat16", examples=6)
    with subject.steps(gradients="opacus") as (engine, loss):
        found = sensitivity(engine, loss, torch.arange(6), leaving_out=(0,))
    assert 0.5 < found.largest <= BOUND


def test_a_longer_text_moves_nobody_else():
    """Its own length decides what a text is padded to, whoever else was drawn."""
    subject = shipped("private-ffa", examples=40)
    lengths = [len(row) for row in token_ids(subject.examples)]
    order = sorted(range(40), key=lengths.__getitem__)
    chosen = torch.tensor([*order[:8], order[-1]])
    with subject.steps() as (engine, loss):
        found = sensitivity(engine, loss, chosen, leaving_out=(order[-1],))
    assert lengths[order[-1]] > lengths[order[7]] + 8
    assert found.largest <= BOUND


def test_a_measure_that_can_fail():
    """A loss that looks at its company moves the sum by far more: so would any of the faults above."""
    subject = shipped("private-ffa", examples=8)
    with subject.steps() as (engine, loss):
        found = sensitivity(engine, lambda i: loss(i) * (-1.0) ** len(i), torch.arange(8))
    assert found.largest > 2


def test_by_piece_is_the_same_measure():
    subject = shipped("private-ffa", "train.microbatch_size=3", examples=9)
    with subject.steps() as (engine, loss):
        slow = sensitivity(engine, loss, torch.arange(9), leaving_out=(0, 4))
        fast = sensitivity_by_piece(engine, loss, torch.arange(9), leaving_out=(0, 4))
    assert fast.by_index == pytest.approx(slow.by_index, rel=1e-12)


PLAIN = "model.dtype=float32"
WAYS = (
    PLAIN,
    "train.microbatch_size=5",
    "model.gradient_checkpointing=true",
    "model.dtype=bfloat16",
    "model.load_dtype=bfloat16",
)
TRAINS_ALL = "private-fedit"


def cases() -> Iterator[ParameterSet]:
    """Every recipe, way and number of texts, and how many positions are summed again; in `make test-slow` 32 texts
    each way with a recipe that trains A and B, one summed again; the rest, with all of 128, is `make test-long`.

    Four in bfloat16, which takes minutes where a processor has none of it.
    """
    for name, way, count, again in itertools.product(PRIVATE_RECIPES, WAYS, (4, 32, 128), (1, 3)):
        short = name == TRAINS_ALL and count == (4 if "bfloat16" in way else 32) and again == 1
        if short or again == 3:
            yield pytest.param(name, count, way, again, marks=[] if short else pytest.mark.long)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "count", "override", "again"), cases())
def test_every_position_of_real_texts(name, count, override, again):
    subject = shipped(name, override, examples=count)
    with subject.steps() as (engine, loss):
        by_piece = sensitivity_by_piece(engine, loss, torch.arange(count))
        whole = sensitivity(engine, loss, torch.arange(count), leaving_out=(count // 2, 0, count - 1)[:again])
    print(f"{name}, {count} texts, {override}: {by_piece.largest:.7f} C, {again} summed again {whole.largest:.7f} C")
    assert max(by_piece.largest, whole.largest) <= BOUND
