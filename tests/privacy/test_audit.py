"""The distribution-free bound's arithmetic."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom

from fedlora.privacy.audit import Guesses, epsilon_lower_bound, guess, p_value


def test_without_delta_the_p_value_is_the_binomial_tail():
    seen = Guesses(canaries=100, guesses=20, right=18)
    assert p_value(seen, epsilon=math.log(3), delta=0.0) == pytest.approx(binom.sf(17, 20, 0.75))
    assert p_value(seen, epsilon=math.log(3), delta=1e-3) > p_value(seen, epsilon=math.log(3), delta=0.0)


def test_the_delta_term_is_that_of_the_theorem():
    """2 m δ max_i Pr[right - i <= Binomial < right] / i, by a loop."""
    seen = Guesses(canaries=50, guesses=10, right=8)
    mass = [sum(binom.pmf(8 - j, 10, 0.75) for j in range(1, i + 1)) / i for i in range(1, 9)]
    expected = binom.sf(7, 10, 0.75) + 2 * 50 * 1e-3 * max(mass)
    assert p_value(seen, epsilon=math.log(3), delta=1e-3) == pytest.approx(expected)


@pytest.mark.parametrize("canaries", [5, 20, 400])
def test_all_right_refutes_up_to_the_known_bound(canaries):
    """n of n right: refuted while q^n <= 0.05, q = e^ε / (1 + e^ε): ε of 0.2, 1.8 and 4.9."""
    q = 0.05 ** (1 / canaries)
    bound = epsilon_lower_bound(Guesses(canaries, canaries, canaries), delta=0.0)
    assert bound == pytest.approx(math.log(q / (1 - q)), abs=1e-3)


def test_chance_refutes_nothing():
    assert epsilon_lower_bound(Guesses(100, 50, 26), delta=1e-5) == 0.0


def test_only_the_highest_scores_are_guessed():
    scores, included = [0.1, 5.0, -9.0, 4.0], [True, True, False, False]
    assert guess(scores, included, guesses=2) == Guesses(4, 2, 1)


def test_guesses_must_be_few_enough():
    with pytest.raises(ValueError, match="guesses must be from 1 to the number of canaries 3, got 4"):
        guess([1.0, 2.0, 3.0], [True, True, False], guesses=4)
