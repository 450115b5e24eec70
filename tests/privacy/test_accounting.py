"""Accounting and calibration against published and measured figures."""

from __future__ import annotations

import math

import dp_accounting as dp
import pytest
from dp_accounting.pld import PLDAccountant

from fedlora.privacy.accounting import (
    DISCRETISATION,
    ClientLevel,
    Event,
    client_level_epsilon,
    epsilon,
    quick_epsilon,
    rdp_epsilon,
)
from fedlora.privacy.calibration import UnreachableError, noise_multiplier_for, public_size

# (σ, steps) -> (RDP, PLD) at q = 0.01, δ = 1e-5: independent runs of Google's accountants.
TABLE = {
    (0.8, 100): (2.19, 1.51),
    (0.8, 1_000): (3.70, 3.14),
    (0.8, 10_000): (10.94, 10.05),
    (1.0, 100): (1.21, 0.72),
    (1.0, 1_000): (2.10, 1.83),
    (1.0, 10_000): (6.71, 6.19),
    (1.2, 100): (0.78, 0.45),
    (1.2, 1_000): (1.45, 1.30),
    (1.2, 10_000): (4.86, 4.48),
}


def spent(sigma: float, steps: int, rate: float = 0.01) -> Event:
    return Event(rate=rate, noise_multiplier=sigma, steps=steps)


@pytest.mark.parametrize(("sigma", "steps"), TABLE)
def test_epsilon_equals_the_reference_table(sigma, steps):
    rdp, pld = TABLE[sigma, steps]
    within = 0.005 * pld + 0.005  # half a percent, and the table's own rounding
    assert epsilon([spent(sigma, steps)], delta=1e-5) == pytest.approx(pld, abs=within)
    assert rdp_epsilon([spent(sigma, steps)], delta=1e-5) == pytest.approx(rdp, rel=0.005, abs=0.005)


def test_a_small_epsilon_is_found_on_a_finer_grid():
    """The grid of larger ones says 0.053, and Rényi DP 0.0124."""
    assert epsilon([spent(240.0, 10_000)], delta=1e-5) == pytest.approx(0.010235, rel=1e-3)


@pytest.mark.parametrize(
    "events",
    [[spent(1.1, 3, rate=0.25)], [spent(1.1, 9, rate=0.25)], [spent(2.0, 30, rate=0.1), spent(1.1, 6, rate=0.25)]],
    ids=["three steps", "nine of the same", "two mechanisms"],
)
def test_a_step_that_was_computed_before_gives_what_dp_accounting_gives_bit_by_bit(events):
    accountant = PLDAccountant(
        neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=DISCRETISATION
    )
    for event in sorted(events, key=lambda event: event.rate):
        step = dp.PoissonSampledDpEvent(event.rate, dp.GaussianDpEvent(event.noise_multiplier))
        accountant.compose(dp.SelfComposedDpEvent(step, event.steps))
    assert epsilon(events, delta=1e-5) == accountant.get_epsilon(1e-5)


def test_ten_rounds_equal_one_composition():
    assert epsilon([spent(1.0, 10)] * 10, delta=1e-5) == epsilon([spent(1.0, 100)], delta=1e-5)


def test_the_order_of_events_does_not_matter_and_each_costs():
    mixed = [spent(1.0, 50), spent(0.8, 20, rate=0.02), spent(1.0, 50)]
    assert epsilon(mixed, delta=1e-5) == epsilon(mixed[::-1], delta=1e-5)
    assert epsilon(mixed, delta=1e-5) > epsilon(mixed[:1], delta=1e-5) > epsilon([], delta=1e-5) == 0.0


def test_one_unsampled_gaussian_is_the_analytic_gaussian_mechanism():
    """Balle and Wang 2018: δ(ε) = Φ(1/2σ - εσ) - e^ε Φ(-1/2σ - εσ) for sensitivity 1."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    found = epsilon([spent(2.0, 1, rate=1.0)], delta=1e-5)
    delta = phi(0.25 - found * 2.0) - math.exp(found) * phi(-0.25 - found * 2.0)
    assert delta <= 1e-5
    assert delta == pytest.approx(1e-5, rel=0.01)


def test_where_rdp_exceeds_fifty_it_answers_alone():
    hopeless = [spent(0.3, 10_000, rate=0.5)]
    assert epsilon(hopeless, delta=1e-5) == pytest.approx(rdp_epsilon(hopeless, delta=1e-5), rel=0.05)
    assert epsilon(hopeless, delta=1e-5) > 50


@pytest.mark.parametrize(
    "long", [[spent(300.0, 1_000_001)], [spent(40.0 + number / 8, 1) for number in range(65)]], ids=["steps", "kinds"]
)
def test_what_would_take_long_to_compose_is_bounded_by_renyi_dp_alone(long):
    """Either is enough: no task can keep a site computing."""
    assert epsilon(long, delta=1e-5) == min(quick_epsilon(long, delta=1e-5), rdp_epsilon(long, delta=1e-5))


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (ClientLevel(noise_multiplier=1.0, rounds=100, rate=0.1), 7.05),
        (ClientLevel(noise_multiplier=2.0, rounds=100, rate=0.1), 2.34),
        (ClientLevel(noise_multiplier=1.0, rounds=10), 17.9),
        (ClientLevel(noise_multiplier=2.0, rounds=10), 7.5),
    ],
)
def test_client_level_epsilon(event, expected):
    assert client_level_epsilon([event], delta=1e-5) == pytest.approx(expected, rel=0.01)


def test_delta_must_be_a_probability():
    with pytest.raises(ValueError, match=r"delta must be in \(0, 1\), got 1\.5"):
        epsilon([spent(1.0, 1)], delta=1.5)


@pytest.mark.parametrize(("target", "rate", "steps"), [(6.0, 1 / 88, 500), (3.0, 1 / 88, 1000), (1.0, 0.05, 100)])
def test_calibrated_noise_meets_the_target_and_hardly_less_would(target, rate, steps):
    sigma = noise_multiplier_for(target, delta=1e-5, rate=rate, steps=steps)
    assert target * 0.99 < epsilon([spent(sigma, steps, rate)], delta=1e-5) <= target
    assert epsilon([spent(sigma * 0.998, steps, rate)], delta=1e-5) > target


def test_calibration_agrees_with_published_figures():
    """SST-2 in FedSVD's setting (q = 1/88): σ 0.613 for 500 steps, 0.668 for the worst case of 1,000 (PRV)."""
    assert noise_multiplier_for(6.0, delta=1e-5, rate=1 / 88, steps=500) == pytest.approx(0.613, rel=0.01)
    assert noise_multiplier_for(6.0, delta=1e-5, rate=1 / 88, steps=1000) == pytest.approx(0.668, rel=0.01)


def test_an_unreachable_target_says_what_to_change():
    with pytest.raises(UnreachableError, match=r"fewer rounds or steps, or a larger epsilon"):
        noise_multiplier_for(1e-6, delta=1e-12, rate=1.0, steps=1_000_000)


def test_public_size_never_exceeds_the_dataset_and_is_coarse():
    sizes = {public_size(n) for n in range(1000, 10_000)}
    assert all(public_size(n) <= n < 2 * public_size(n) for n in range(1, 20_000))
    assert len(sizes) == 10
