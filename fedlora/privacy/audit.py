"""An empirical lower bound on ε from one training run with canaries, to hold against the claim.

Every canary is put into the training data with probability one half. After training, an auditor who saw every released
gradient says of some that they were in: of those with the highest scores, because a canary that was never drawn looks
like one that is not there. Under (ε, δ)-DP the number of right guesses is, up to a δ term, at most
Binomial(r, e^ε / (1 + e^ε)); an ε for which what was seen has probability below 1 - confidence is refuted.

Source: Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run (arXiv 2305.08846), theorem 5.2.

Guarantee: with probability at least `confidence` over the run, `epsilon_lower_bound` does not exceed the true ε, if the
number of guesses was chosen beforehand; nothing is assumed of the mechanism. A bound of 0 refutes nothing and proves
nothing, and the bound is weak: `gaussian_audit` assumes more and sees more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom


@dataclass(frozen=True)
class Guesses:
    """Result of an auditor's guesses."""

    canaries: int
    guesses: int
    right: int


def guess(scores: Sequence[float], included: Sequence[bool], *, guesses: int) -> Guesses:
    """Call the highest `guesses` scores included, and abstain from the others.

    >>> guess([3.0, -1.0, 0.1, 2.0], [True, False, True, True], guesses=2)
    Guesses(canaries=4, guesses=2, right=2)
    """
    if not 0 < guesses <= len(scores) or len(scores) != len(included):
        raise ValueError(f"guesses must be from 1 to the number of canaries {len(scores)}, got {guesses}.")
    ranked = sorted(range(len(scores)), key=lambda index: scores[index])
    return Guesses(len(scores), guesses, sum(included[index] for index in ranked[-guesses:]))


def p_value(seen: Guesses, *, epsilon: float, delta: float) -> float:
    """Largest probability, under any (ε, δ)-DP mechanism, of at least as many right guesses as were seen."""
    share = 1.0 / (1.0 + math.exp(-epsilon))
    plain = float(binom.sf(seen.right - 1, seen.guesses, share))
    fewer = np.arange(1, seen.right + 1)
    mass = np.cumsum(binom.pmf(seen.right - fewer, seen.guesses, share))
    worst = float((mass / fewer).max(initial=0.0))
    return min(1.0, plain + 2 * seen.canaries * delta * worst)


def epsilon_lower_bound(seen: Guesses, *, delta: float, confidence: float = 0.95) -> float:
    """The largest ε that the guesses refute at this confidence; 0 if they refute none."""
    refuted, kept = 0.0, 64.0
    if p_value(seen, epsilon=0.0, delta=delta) > 1 - confidence:
        return 0.0
    while kept - refuted > 1e-4:
        middle = (refuted + kept) / 2
        if p_value(seen, epsilon=middle, delta=delta) <= 1 - confidence:
            refuted = middle
        else:
            kept = middle
    return refuted
