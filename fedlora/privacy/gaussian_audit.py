"""Tests of a claimed mechanism on the scores of canaries: three tests, and their power in advance.

The claim of a step is (q, σ, C, b): every row is drawn with probability q, clipped to C, the sum gets noise σC and is
divided by b. In units of C, b times what was released, along the direction of a canary of norm C or more, is

    held out:  N(0, σ²)         included:  Bernoulli(q) + N(0, σ²)

`noise` tests the variance where nobody's gradient is (exact, chi-squared; all values, and every parameter's own);
`sampling` tests the mean of included minus held-out sums over the steps (normal for hundreds of canaries);
`clipping` tests the largest single score of an included canary: none may be further above 1 than the noise reaches.

Guarantee: if every step was as claimed, each test refutes with probability at most `level`: exactly for `noise`, by a
union bound for `clipping`, by the central limit theorem for `sampling`. They refute more claims than the bound of
`audit`, and prove less: a mechanism that is private in another way than was claimed is refuted as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import binom, chi2, norm
from torch import Tensor

CERTAIN = 1e-6
"""Probability below which scores that speak for *more* privacy than claimed are taken to be those of a blind audit."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One step, as the ledger charged it."""

    rate: float
    noise_multiplier: float
    clip: float
    batch: float


@dataclass(frozen=True)
class Seen:
    """Observations of a run. Shapes: t steps, m canaries."""

    claims: Sequence[Claim]
    scores_tm: Tensor
    """⟨b/C times what was released, the canary's direction⟩."""
    included_m: Tensor
    noise: Mapping[str, tuple[float, int]]
    """Per parameter: Σ (b/(σC) times what was released)² over its held-out values and all steps; how many they are."""

    @property
    def one_sided(self) -> bool:
        """Whether there are too few canaries, or all of them were included, or none."""
        return bool(self.included_m.all()) or not bool(self.included_m.any())


@dataclass(frozen=True)
class Finding:
    """One test: the probability of what was seen, or worse, if the claim is true."""

    test: str
    seen: str
    p_value: float
    level: float

    @property
    def refuted(self) -> bool:
        return self.p_value <= self.level


def noise(seen: Seen, *, level: float) -> Finding:
    """Too little noise, over all held-out values or those of one parameter."""
    squares, values = _all_noise(seen)
    each = {name: float(chi2.cdf(part, count)) for name, (part, count) in seen.noise.items() if count}
    name, least = min(each.items(), key=lambda item: item[1])
    together = float(chi2.cdf(squares, values))
    said = f"standard deviation {math.sqrt(squares / values):.4f} of what is claimed, over {values} values"
    if len(each) * least < together:
        part, count = seen.noise[name]
        said += f"; {math.sqrt(part / count):.4f} in {name}"
    return Finding("noise", said, min(1.0, 2 * min(together, len(each) * least)), level)


def sampling(seen: Seen, *, level: float) -> Finding:
    """Too much of the included canaries: they were drawn more often, or count for more, than claimed."""
    if seen.one_sided:
        return Finding("sampling", "all canaries are on one side: nothing to compare", 1.0, level)
    z = _sampling_z(seen)
    sums_m = seen.scores_tm.sum(0)
    excess = float(sums_m[seen.included_m].mean() - sums_m[~seen.included_m].mean())
    claimed = sum(claim.rate for claim in seen.claims)
    said = f"an included canary counts {excess:.3f} C over the steps, claimed {claimed:.3f} C (z = {z:+.2f})"
    return Finding("sampling", said, float(norm.sf(z)), level)


def clipping(seen: Seen, *, level: float) -> Finding:
    """A canary that counts for more than C in one step."""
    if not seen.included_m.any():
        return Finding("clipping", "no canary is included: nothing to see", 1.0, level)
    scores_tn = seen.scores_tm[:, seen.included_m]
    above_t = [float(row.max()) for row in scores_tn]
    worst = max((top - 1) / claim.noise_multiplier for top, claim in zip(above_t, seen.claims, strict=True))
    said = f"the largest score of an included canary in one step is {max(above_t):.2f} C, {worst:+.2f} σ above C"
    return Finding("clipping", said, min(1.0, scores_tn.numel() * float(norm.sf(worst))), level)


def blind(seen: Seen, *, drawn: int) -> str | None:
    """Why these scores cannot come from a working audit, whatever the tests show; None if they can.

    `drawn`: how often a canary was planted in a step.
    """
    squares, values = _all_noise(seen)
    chances = sum(claim.rate for claim in seen.claims) / len(seen.claims)
    draws = int(seen.included_m.sum()) * len(seen.claims)
    if binom.cdf(drawn, draws, chances) < CERTAIN:
        return f"canaries were in {drawn} gradients, where about {draws * chances:.0f} are to be expected"
    if chi2.sf(squares, values) < CERTAIN:
        return f"there is more noise than was claimed: {math.sqrt(squares / values):.4f} times its standard deviation"
    if norm.cdf(_sampling_z(seen)) < CERTAIN:
        return "included canaries hardly show in what was released"
    return None


@dataclass(frozen=True, kw_only=True)
class Design:
    """A planned audit: enough to predict what it would detect."""

    claims: Sequence[Claim]
    canaries: int
    held_out: int
    """Held-out values in a step."""
    norm: float
    """Of the longer half of the canaries, in C; the others have 1."""
    level: float


def power(design: Design) -> dict[str, float]:
    """The probability that one of the tests refutes, by what would be wrong; the most powerful test's alone."""
    found = {
        "no noise": 1.0,
        "σ/10": noise_power(design, 0.1),
        "σ/2": noise_power(design, 0.5),
        "q x 8": sampling_power(design, 8.0),
        "no clipping": clipping_power(design),
    }
    if all(claim.rate == 1 for claim in design.claims):
        del found["q x 8"]  # every row is drawn anyway
    return found


def noise_power(design: Design, factor: float) -> float:
    """If σ were `factor` times what is claimed."""
    values = design.held_out * len(design.claims)
    return float(chi2.cdf(chi2.ppf(design.level / 2, values) / factor**2, values))


def sampling_power(design: Design, factor: float) -> float:
    """If rows were drawn `factor` times as often as is claimed."""
    claimed = [claim.rate for claim in design.claims]
    real = [min(1.0, factor * rate) for rate in claimed]
    variance = sum(claim.noise_multiplier**2 for claim in design.claims)
    half = design.canaries / 2
    before, after = (
        math.sqrt((2 * variance + sum(rate * (1 - rate) for rate in rates)) / half) for rates in (claimed, real)
    )
    return float(norm.sf((norm.isf(design.level) * before - (sum(real) - sum(claimed))) / after))


def clipping_power(design: Design) -> float:
    """If nothing were clipped: some long canary is drawn, and rises above what the noise reaches."""
    half = design.canaries / 2
    reach = norm.isf(design.level / (half * len(design.claims)))
    missed = 1.0
    for claim in design.claims:
        shows = float(norm.sf(reach - (design.norm - 1) / claim.noise_multiplier))
        missed *= (1 - claim.rate * shows) ** (half / 2)
    return 1 - missed


def _all_noise(seen: Seen) -> tuple[float, int]:
    parts = seen.noise.values()
    return sum(squares for squares, _ in parts), sum(count for _, count in parts)


def _sampling_z(seen: Seen) -> float:
    sums_m = seen.scores_tm.sum(0)
    inside, outside = sums_m[seen.included_m], sums_m[~seen.included_m]
    if seen.one_sided:
        return 0.0
    alone = sum(claim.noise_multiplier**2 for claim in seen.claims)
    drawn = sum(claim.rate * (1 - claim.rate) for claim in seen.claims)
    deviation = math.sqrt((alone + drawn) / len(inside) + alone / len(outside))
    return float(inside.mean() - outside.mean() - sum(claim.rate for claim in seen.claims)) / deviation
