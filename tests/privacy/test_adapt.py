"""Noise that is adapted by utility: within ε, by a filter, with what is left of the budget, and by public examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlora.config.privacy import AdaptSettings, PrivacySettings
from fedlora.privacy.accounting import Event, epsilon, filtered_epsilon, rdp_epsilon
from fedlora.privacy.calibration import filter_order, noise_for_the_rest, noise_multiplier_for
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.policy import DatasetPolicy, Policy
from fedlora.privacy.receipt import verified
from fedlora.settings import SettingsError
from fedlora.tasks.guessing import ACCURACY
from fedlora.tasks.metric import LOSS
from server.requests.adaptive_noise import noise_factor
from strategies.compatibility import Place, case_of, require_compatible
from tests.federations import CLIENTS, run, save_messages, save_tiny_model, tiny_recipe
from tests.privacy.tasks import STATE, guard, task

ADAPT = {"epsilon": 3.0, "adapt": {"below": 0.9}}


def test_what_is_adapted_stays_within_its_bounds():
    plain = PrivacySettings(**ADAPT).adapt
    assert plain is not None
    assert (plain.below, plain.start, plain.by, plain.least) == (0.9, 1.5, 0.8, 0.5)
    for name, refused, taken in (
        ("below", (0.0,), (0.5, 3.0)), ("start", (0.99, 10.1), (1.0, 10.0)), ("by", (0.0, 1.0), (0.5,)),
        ("least", (0.0, 1.01), (1.0,)),
    ):  # fmt: skip
        for value in refused:
            with pytest.raises(ValueError, match=name):
                PrivacySettings(epsilon=3.0, adapt={"below": 0.9, name: value})
        for value in taken:
            assert getattr(PrivacySettings(epsilon=3.0, adapt={"below": 0.9, name: value}).adapt, name) == value


def sigmas(folder: Path, dataset: str) -> list[float]:
    entries = read_ledger(LedgerFiles(folder, dataset), public_key=None).entries
    return [entry.fields["noise_multiplier"] for entry in entries if entry.kind == "charge"]


def order_of(target: float, steps: int) -> float:
    return filter_order(target, delta=1e-5, rate=0.016, steps=steps)


@pytest.mark.parametrize(("sigma", "steps", "order"), [(0.8, 500, 6), (1.0, 100, 12), (2.0, 10_000, 4)])
def test_the_filter_is_never_below_what_all_orders_give(sigma, steps, order):
    spent = [Event(rate=0.016, noise_multiplier=sigma, steps=steps)]
    assert filtered_epsilon(spent, delta=1e-5, order=order) >= rdp_epsilon(spent, delta=1e-5)
    assert rdp_epsilon(spent, delta=1e-5) >= epsilon(spent, delta=1e-5)


@pytest.mark.parametrize(("target", "dearer"), [(1.0, 1.25), (3.0, 1.1), (6.0, 1.1)])
def test_the_filter_costs_a_run_of_its_target_little_noise(target, dearer):
    calibrated = noise_multiplier_for(target, delta=1e-5, rate=0.016, steps=320)
    order = order_of(target, 320)
    filtered = noise_for_the_rest(target, [], delta=1e-5, rate=0.016, steps=320, order=order)
    assert calibrated < filtered < dearer * calibrated


def test_the_rest_of_a_run_has_the_noise_that_its_budget_leaves():
    frugal, lavish = ([Event(rate=0.016, noise_multiplier=sigma, steps=160)] for sigma in (1.5, 0.85))
    plan = {"delta": 1e-5, "rate": 0.016, "steps": 160, "order": order_of(3.0, 320)}
    left = [noise_for_the_rest(3.0, spent, **plan) for spent in ([], frugal, lavish)]
    assert left[0] < left[1] < left[2]
    for spent, sigma in zip(([], frugal, lavish), left, strict=True):
        enough, less = (
            [*spent, Event(rate=0.016, noise_multiplier=share * sigma, steps=160)] for share in (1.0, 0.998)
        )
        assert filtered_epsilon(enough, delta=1e-5, order=plan["order"]) <= 3.0
        assert filtered_epsilon(less, delta=1e-5, order=plan["order"]) > 3.0


@pytest.mark.parametrize("factors", [[0.01] * 5, [2.0, 0.1, 2.0, 0.1, 0.1]])
def test_whatever_factors_are_asked_the_run_ends_within_its_epsilon_and_is_never_out_of_budget(tmp_path, factors):
    receipts = []
    for number, factor in enumerate(factors, start=1):
        asked = task(round=number, rounds=5, privacy=ADAPT, noise_factor=factor)
        receipts.append(verified(guard(tmp_path).authorise(asked, STATE, examples=2400).receipt))
    assert receipts[-1].epsilon_run <= 3.0
    spent = [Event(rate=r.rate, noise_multiplier=r.noise_multiplier, steps=r.steps) for r in receipts]
    assert receipts[-1].epsilon_run == filtered_epsilon(spent, delta=1e-5, order=order_of(3.0, 10))
    assert min(sigmas(tmp_path, "tickets")) >= 0.3


def test_saved_budget_is_spent_later(tmp_path):
    for number, factor in ((1, 3.0), (2, 0.5)):
        asked = task(round=number, rounds=2, privacy=ADAPT, noise_factor=factor, train={"steps": 100})
        guard(tmp_path).authorise(asked, STATE, examples=2400)
    calibrated = noise_multiplier_for(3.0, delta=1e-5, rate=0.016, steps=200)
    even = noise_for_the_rest(3.0, [], delta=1e-5, rate=0.016, steps=200, order=order_of(3.0, 200))
    first, second = sigmas(tmp_path, "tickets")
    assert first == pytest.approx(3 * calibrated)
    assert second < 0.98 * even


def test_the_factor_stops_at_the_sites_own_bounds(tmp_path):
    policy = Policy(min_noise_multiplier=0.9, datasets={"tickets": DatasetPolicy(epsilon_per_period=0.5)})
    receipts = [
        verified(
            guard(tmp_path, policy)
            .authorise(task(round=number, privacy=ADAPT, noise_factor=0.01), STATE, examples=2400)
            .receipt
        )
        for number in (1, 2, 3)
    ]
    assert receipts[-1].epsilon_run <= 0.5
    assert min(sigmas(tmp_path, "tickets")) >= 0.9


def test_without_adapt_a_factor_changes_nothing(tmp_path):
    plain = guard(tmp_path / "a").authorise(task(), STATE, examples=2400)
    asked = guard(tmp_path / "b").authorise(task(noise_factor=0.1), STATE, examples=2400)
    assert plain.mechanism == asked.mechanism


def test_a_run_whose_noise_changed_is_priced_by_the_filter_also_without_adapt(tmp_path):
    for number, sigma in ((1, 2.0), (2, 3.0)):
        asked = task(round=number, rounds=5, privacy={"epsilon": 3.0, "noise_multiplier": sigma})
        grant = guard(tmp_path).authorise(asked, STATE, examples=2400)
    spent = [Event(rate=0.016, noise_multiplier=sigma, steps=2) for sigma in (2.0, 3.0)]
    assert sigmas(tmp_path, "tickets") == [2.0, 3.0]
    assert verified(grant.receipt).epsilon_run == filtered_epsilon(spent, delta=1e-5, order=order_of(3.0, 10))


def test_adapt_needs_a_budget_and_public_examples(tmp_path):
    recipe = tiny_recipe("m", "s", "privacy.epsilon=3", "privacy.adapt={below: 0.9}")
    with pytest.raises(SettingsError, match=r"privacy\.adapt needs a budget; set privacy\.epsilon"):
        tiny_recipe("m", "s", "privacy.noise_multiplier=1", "privacy.adapt={below: 0.9}")
    with pytest.raises(SettingsError, match=r"there are none: set held_out in server\.yaml"):
        require_compatible(case_of(recipe, Place(evaluates=False)))
    require_compatible(case_of(recipe))
    own = tiny_recipe("m", "s", "privacy.epsilon=3", "privacy.adapt={below: 0.9}", "strategy.name=fedsa")
    with pytest.raises(SettingsError, match="fedsa has no global model to evaluate; choose a strategy with one"):
        require_compatible(case_of(own))


def test_where_smaller_is_better_a_round_that_ends_above_is_short():
    adapt = AdaptSettings(below=0.5, start=2.0, by=0.5, least=0.25)
    assert noise_factor(adapt, LOSS, [0.6, 0.4, 0.5]) == 1.0
    assert noise_factor(adapt, ACCURACY, [0.6, 0.4, 0.5]) == 1.0
    assert noise_factor(adapt, LOSS, [0.6, 0.7, 0.8]) == 0.25
    assert noise_factor(adapt, ACCURACY, [0.6, 0.7, 0.8]) == 2.0


def test_a_whole_run_shrinks_its_noise_where_accuracy_falls_short(tmp_path):
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv")
    settings = ("privacy.epsilon=3", "privacy.adapt={below: 0.999, start: 2.0, by: 0.5, least: 0.5}")
    summary = run(tiny_recipe(model, source, *settings), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rounds.jsonl").read_text().splitlines()]
    assert all(line["evaluation"]["accuracy"] < 0.999 for line in lines)
    for name in CLIENTS:
        noise = sigmas(tmp_path / "out" / "sites" / name, "default")
        assert noise == sorted(noise, reverse=True)
        assert noise[2] < noise[0] / 2 * 1.2
    assert 2.5 < summary["epsilon_max"] <= 3.0
    assert any("to adapt the noise" in leak for leak in summary["leaks"])
