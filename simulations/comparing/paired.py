"""Whether two methods differ: in pairs, on the same test examples and the same seeds.

    of the test set   would another set of as many examples say otherwise? Paired bootstrap (Koehn 2004) over examples,
                      within every seed, the trained models as they are.
    of the seeds      would other seeds? The t interval of the differences, one a seed: a seed changes split, start and
                      batches.

One method is called better only where both intervals say so. Intervals are at 95 % for each pair by itself: of twenty
pairs without a difference one is expected to stand out.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from simulations.by_example import ByExample, Values, read_each
from simulations.comparing.rows import Row

RESAMPLES = 2000
AT_ONCE = 100
LEVEL = 0.95
LEAST_SEEDS = 3
WORDS = {0: "no seed in common", 1: "one seed says nothing", 2: "two seeds say nothing"}

Interval = tuple[float, float]
Differences = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """One method against another, in the metric that both are compared by."""

    one: str
    other: str
    seeds: int
    difference: float | None
    """One less the other, in the mean of the seeds that both have."""
    by_test_set: Interval | None
    """None where runs kept no figures of every example, or have different test sets."""
    by_seeds: Interval | None
    """None of fewer than three."""
    won: int
    """Seeds with which the one is better."""
    says: str


def pairs(rows: Sequence[Row], *, seed: int = 0) -> list[Pair]:
    """Every two rows, in their order."""
    return [pair(one, other, seed=seed) for one, other in itertools.combinations(rows, 2)]


def pair(one: Row, other: Row, *, seed: int = 0) -> Pair:
    ours, theirs = ({run.seed: run for run in row.runs} for row in (one, other))
    common = [number for number in ours if number in theirs]
    apart = np.array([float(ours[n].score or 0) - float(theirs[n].score or 0) for n in common])  # rows have scores
    sign = 1 if one.metric.larger_is_better else -1
    each = [(read_each(ours[number].folder), read_each(theirs[number].folder)) for number in common]
    by_test_set = over_examples(each, one.metric.name, seed=seed)
    by_seeds = over_seeds(apart)
    return Pair(
        one.method, other.method, len(common), float(apart.mean()) if common else None, by_test_set, by_seeds,
        int((sign * apart > 0).sum()), verdict(sign, by_test_set, by_seeds, len(common)),
    )  # fmt: skip


def verdict(sign: int, by_test_set: Interval | None, by_seeds: Interval | None, seeds: int) -> str:
    """
    >>> verdict(1, (0.1, 0.2), (0.05, 0.3), 5), verdict(1, (0.1, 0.2), (-0.1, 0.3), 5), verdict(1, None, None, 2)
    ('better', 'cannot be told apart', 'two seeds say nothing')
    """
    if by_seeds is None or seeds < LEAST_SEEDS:
        return WORDS.get(seeds, "nothing")
    known = [by_seeds] if by_test_set is None else [by_seeds, by_test_set]
    if all(low > 0 for low, _ in known) or all(high < 0 for _, high in known):
        return "better" if sign * known[0][0] > 0 else "worse"
    return "cannot be told apart"


def over_seeds(apart: Differences) -> Interval | None:
    """Student's interval of the mean of as many differences; None of fewer than three."""
    if len(apart) < LEAST_SEEDS:
        return None
    error = float(apart.std(ddof=1)) / len(apart) ** 0.5
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(apart) - 1)) * error
    return float(apart.mean()) - reach, float(apart.mean()) + reach


def over_examples(
    each: Sequence[tuple[ByExample | None, ByExample | None]], metric: str, *, seed: int = 0
) -> Interval | None:
    """The bootstrap's interval of the mean over seeds; None where any seed's figures are missing, or not of one set."""
    found = []
    for one, other in each:
        if one is None or other is None or one.digest != other.digest or metric not in one.figures:
            return None
        found.append((drawing(one.digest, seed), np.hstack([one.figures[metric], other.figures[metric]])))
    if not found:
        return None
    drawn = np.mean([resampled(values, draw) for draw, values in found], axis=0)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def drawing(digest: str, seed: int) -> np.random.Generator:
    """One a test set: where several seeds share theirs, the same examples are drawn for all of them."""
    return np.random.default_rng([seed, *hashlib.blake2b(digest.encode(), digest_size=8).digest()])


def resampled(values_n4: Values, draw: np.random.Generator) -> Differences:
    """RESAMPLES differences of two means; columns: total and weight of the one, total and weight of the other."""
    n = len(values_n4)
    chunks = []
    for _ in range(RESAMPLES // AT_ONCE):
        counts = draw.multinomial(n, np.full(n, 1 / n), size=AT_ONCE)
        sums = counts @ values_n4
        chunks.append(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3])
    return np.concatenate(chunks)


def resampled_slowly(values_n4: Values, draw: np.random.Generator) -> Differences:
    """The same, an example at a time: the twin that tests compare with."""
    found = []
    for _ in range(RESAMPLES):
        sums = np.zeros(4)
        for place in draw.integers(len(values_n4), size=len(values_n4)):
            sums += values_n4[place]
        found.append(sums[0] / sums[1] - sums[2] / sums[3])
    return np.array(found)
