"""What a run's figures mean: guessing, chance, divergence, and whether it was still rising."""

from __future__ import annotations

import math

import pytest

from fedlora.protocol.task import Evaluation
from fedlora.tasks.guessing import Guessing, standard_error
from fedlora.tasks.verdict import STANDINGS

THREE = Guessing(majority=0.6, examples=400, classes=3)


def quality(accuracy: float, loss: float) -> Evaluation:
    """Also one that is no number."""
    return Evaluation.model_construct(metrics={"accuracy": accuracy}, loss=loss, examples=400)


def said(*evaluations: tuple[float, float] | None, guessing: Guessing = THREE) -> str:
    seen = [None if one is None else quality(*one) for one in evaluations]
    return " ".join(guessing.verdict(seen)["verdict"])


def test_guessing_is_counted_on_the_test_set():
    assert Guessing.on([0, 2, 2, 1, 2], classes=3) == Guessing(0.6, 5, 3)
    with pytest.raises(ValueError, match="without examples"):
        Guessing.on([], classes=2)


def test_the_majority_s_accuracy_is_no_result():
    assert "no better than guessing: always answering with the largest class gives 0.600" in said((0.62, 0.9))
    assert "is better than guessing" in said((0.7, 0.9))
    assert "is worse than guessing" in said((0.5, 0.9))


def test_the_same_gain_on_fewer_texts_is_none():
    assert "is better" in said((0.66, 0.9))
    assert "no better" in said((0.66, 0.9), guessing=Guessing(0.6, 40, 3))
    assert standard_error(0.5, 100) == 0.05


@pytest.mark.parametrize("loss", [math.nan, math.inf, 2.3])
def test_a_diverged_run_is_told_what_to_lower_and_nothing_else(loss):
    assert said((0.7, loss)).startswith("It diverged")
    assert said((0.7, loss)).endswith("Lower train.lr.")
    assert "better" not in said((0.7, loss))


def test_a_loss_above_knowing_nothing_is_said():
    assert "above ln(3) = 1.10" in said((0.7, 1.2))
    assert "ln(3)" not in said((0.7, 1.0))


def test_still_rising_is_against_the_evaluation_before_and_more_than_chance():
    assert "still rising, from 0.650" in said((0.65, 1.0), None, (0.75, 0.8), None)
    assert "rising" not in said((0.74, 1.0), (0.75, 0.8))
    assert "rising" not in said((0.8, 1.0), (0.7, 1.0), (0.75, 0.8))


def test_a_loss_that_has_risen_again_is_said():
    assert "rose again, 0.748 to 0.847: fewer rounds or a lower train.lr" in said((0.69, 0.748), (0.7, 0.847))
    for evaluations in [((0.69, 0.75), (0.7, 0.79)), ((0.99, 0.001), (0.99, 0.002)), ((0.69, 0.8), (0.62, 1.0))]:
        assert "rose again" not in said(*evaluations)
    rising = said((0.65, 0.748), (0.7, 0.847))  # one advice at a time
    assert "more rounds may help" in rising
    assert "fewer rounds" not in rising


def test_a_run_that_was_never_evaluated_has_no_verdict():
    assert THREE.verdict([None]) == {
        "majority": 0.6, "test_examples": 400, "standard_error": None, "standing": None, "verdict": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("accuracy", "loss", "standing"),
    [
        (0.7, 3.0, "diverged"),
        (0.5, 0.9, "worse than guessing"),
        (0.62, 0.9, "no better than guessing"),
        (0.7, 0.9, "better than guessing"),
    ],
)
def test_a_run_stands_in_one_of_four_places(accuracy, loss, standing):
    found = THREE.verdict([quality(0.1, 1.0), quality(accuracy, loss)])
    assert found["standing"] == standing
    assert standing in STANDINGS
    assert standing.split()[0] in found["verdict"][0]
