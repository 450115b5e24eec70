"""An empirical lower bound on ε from one training run with canaries, to hold against the claim.

Every canary is put into the training data with probability one half. After training, an auditor who saw every released
gradient guesses which were in. Under (ε, δ)-DP the number of right guesses is, up to a δ term, at most
Binomial(r, e^ε / (1 + e^ε)); an ε for which what was seen has probability below 1 - confidence is refuted.

Source: Steinke, Nasr, Jagielski, Privacy Auditing with One (1) Training Run (arXiv 2305.08846), theorem 5.2.

Guarantee: with probability at least `confidence` over the run, `epsilon_lower_bound` does not exceed the true ε, if the
number of guesses was chosen beforehand. A bound of 0 refutes nothing and proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binom


@dataclass(frozen=True)
class Guesses:
    """How an auditor did."""

    canaries: int
    guesses: int
    right: int


def guess(scores: Sequence[float], included: Sequence[bool], *, guesses: int) -> Guesses:
    """Call the highest half of `guesses` included and the lowest half excluded; abstain in between.

    >>> guess([3.0, -1.0, 0.1, 2.0], [True, False, True, True], guesses=2)
    Guesses(canaries=4, guesses=2, right=2)
    """
    if guesses % 2 or not 0 < guesses <= len(scores) or len(scores) != len(included):
        raise ValueError(f"guesses must be even and at most the number of canaries {len(scores)}, got {guesses}.")
    ranked = sorted(range(len(scores)), key=lambda index: scores[index])
    low, high = ranked[: guesses // 2], ranked[-(guesses // 2) :]
    right = sum(not included[index] for index in low) + sum(included[index] for index in high)
    return Guesses(len(scores), guesses, right)


def p_value(seen: Guesses, *, epsilon: float, delta: float) -> float:
    """Largest probability, under any (ε, δ)-DP mechanism, of at least as many right guesses as were seen."""
    accuracy = 1.0 / (1.0 + math.exp(-epsilon))
    plain = float(binom.sf(seen.right - 1, seen.guesses, accuracy))
    mass = worst = 0.0
    for fewer in range(1, seen.right + 1):
        mass += float(binom.pmf(seen.right - fewer, seen.guesses, accuracy))
        worst = max(worst, mass / fewer)
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
