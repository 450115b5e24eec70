"""The Gaussian tests on scores drawn from what they assume, and from what would be wrong: no model, no engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fedlora.privacy.gaussian_audit import (
    Claim,
    Design,
    Finding,
    Seen,
    blind,
    clipping,
    clipping_power,
    noise,
    noise_power,
    power,
    sampling,
    sampling_power,
)

CLAIM = Claim(rate=0.02, noise_multiplier=0.6, clip=1.0, batch=30.0)
STEPS, CANARIES, VALUES, LONGEST = 8, 600, 500, 10.0
LEVEL = 0.01 / 3


@dataclass(frozen=True)
class World:
    """What really runs where `CLAIM` is claimed."""

    rate: float = CLAIM.rate
    noise_multiplier: float = CLAIM.noise_multiplier
    clips: bool = True

    def seen(self, draw: np.random.Generator) -> tuple[Seen, int]:
        """Scores of one run, and how often a canary was drawn."""
        included = draw.random(CANARIES) < 0.5
        norms = np.where(np.arange(CANARIES) % 2, 1.0 if self.clips else LONGEST, 1.0)
        drawn = (draw.random((STEPS, CANARIES)) < self.rate) & included
        scores = drawn * norms + self.noise_multiplier * draw.standard_normal((STEPS, CANARIES))
        ratio = (self.noise_multiplier / CLAIM.noise_multiplier) ** 2
        parts = {
            name: (ratio * float(draw.chisquare(values * STEPS)), values * STEPS)
            for name, values in (("A", VALUES), ("B", VALUES // 4), ("head", 7))
        }
        seen = Seen([CLAIM] * STEPS, torch.from_numpy(scores), torch.from_numpy(included), parts)
        return seen, int(drawn.sum())


def findings(seen: Seen) -> list[Finding]:
    return [test(seen, level=LEVEL) for test in (noise, sampling, clipping)]


def design(**changes: float) -> Design:
    values = VALUES + VALUES // 4 + 7
    base = Design(claims=[CLAIM] * STEPS, canaries=CANARIES, held_out=values, norm=LONGEST, level=LEVEL)
    return replace(base, **changes)


@pytest.mark.parametrize("included", [False, True])
def test_where_all_canaries_are_on_one_side_nothing_is_refuted_and_it_is_said(included):
    """With six canaries one audit in thirty-two ended in an error of PyTorch's."""
    seen, _ = World().seen(np.random.default_rng(0))
    one_sided = replace(seen, included_m=torch.full((CANARIES,), included))
    assert not sampling(one_sided, level=LEVEL).refuted
    assert "nothing to compare" in sampling(one_sided, level=LEVEL).seen
    assert included or "nothing to see" in clipping(one_sided, level=LEVEL).seen


def test_of_two_thousand_honest_runs_at_most_one_in_a_hundred_is_refuted():
    """No test more often than its level, nor all together than three of it; four standard deviations allowed."""
    draw, runs = np.random.default_rng(0), 2000
    refuted = np.array([[test.refuted for test in findings(World().seen(draw)[0])] for _ in range(runs)])
    assert (refuted.sum(0) <= runs * LEVEL + 4 * (runs * LEVEL) ** 0.5).all()
    assert refuted.any(1).mean() <= 0.01


@pytest.mark.parametrize(
    ("world", "test"),
    [
        (World(noise_multiplier=1e-3), noise),
        (World(noise_multiplier=0.06), noise),
        (World(noise_multiplier=0.3), noise),
        (World(rate=0.16), sampling),
        (World(clips=False), clipping),
    ],
)
def test_each_fault_is_found_by_the_test_that_is_there_for_it(world, test):
    draw = np.random.default_rng(2)
    found = [test(world.seen(draw)[0], level=LEVEL) for _ in range(20)]
    assert all(finding.refuted for finding in found)


def test_noise_that_is_missing_in_one_small_parameter_is_found():
    seen, _ = World().seen(np.random.default_rng(3))
    found = noise(replace(seen, noise={**seen.noise, "head": (0.0, 7 * STEPS)}), level=LEVEL)
    assert found.refuted
    assert "0.0000 in head" in found.seen


def test_the_stated_power_is_how_often_such_runs_are_refuted():
    """At a place where it is neither 0 nor 1."""
    draw = np.random.default_rng(4)
    more = [sampling(World(rate=0.05).seen(draw)[0], level=LEVEL).refuted for _ in range(1000)]
    assert np.mean(more) == pytest.approx(sampling_power(design(), 2.5), abs=0.05)
    less = [noise(World(noise_multiplier=0.57).seen(draw)[0], level=LEVEL).refuted for _ in range(1000)]
    assert np.mean(less) == pytest.approx(noise_power(design(), 0.57 / 0.6), abs=0.05)


def test_the_power_that_is_stated_is_of_the_faults_that_are_named():
    assert power(design()) == {
        "no noise": 1.0,
        "σ/10": noise_power(design(), 0.1),
        "σ/2": noise_power(design(), 0.5),
        "q x 8": sampling_power(design(), 8.0),
        "no clipping": clipping_power(design()),
    }
    few = design(held_out=1, claims=[CLAIM])  # where the two differ
    assert 0.5 > power(few)["σ/10"] == noise_power(few, 0.1) > noise_power(few, 0.5)


def test_power_grows_with_the_steps_and_is_small_for_few_canaries():
    assert sampling_power(design(claims=[CLAIM] * 2), 8.0) < sampling_power(design(), 8.0)
    assert min(power(design(canaries=10, claims=[CLAIM])).values()) < 0.9 < min(power(design()).values())
    assert clipping_power(design(norm=1.5)) < 0.1 < 0.99 < clipping_power(design())


def test_where_every_row_is_drawn_anyway_no_larger_rate_is_a_fault():
    assert "q x 8" not in power(design(claims=[replace(CLAIM, rate=1.0)] * 3))


def test_an_audit_that_never_saw_its_canaries_says_so():
    seen, drawn = World().seen(np.random.default_rng(5))
    assert blind(seen, drawn=drawn) is None
    assert "canaries were in 0 gradients" in str(blind(seen, drawn=0))


def test_noise_above_the_claim_refutes_nothing_and_is_said():
    seen, drawn = World(noise_multiplier=0.7).seen(np.random.default_rng(6))
    assert not noise(seen, level=LEVEL).refuted
    assert "more noise than was claimed" in str(blind(seen, drawn=drawn))
