"""One formula: what is said beforehand of a run's ε is what the guard can charge, for any recipe and any size."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import cast

import pytest

from client.settings import ClientSettings, SiteData
from fedlora.config import TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.calibration import UnreachableError, noise_multiplier_for
from fedlora.privacy.gaussian_audit import Claim
from fedlora.privacy.plan import plan_client, planned_epsilon, planned_mechanism
from fedlora.privacy.policy import SIMULATION, Policy
from fedlora.privacy.receipt import Receipt, verified
from fedlora.privacy.refusal import Refusal
from fedlora.protocol.task import Task
from simulations.auditing.federation import Federation
from tests.privacy.shipped import PRIVATE_RECIPES, recipe
from tests.privacy.tasks import STATE, guard, task

OPEN = Policy(epsilon_budget=1e9, max_delta=0.1, min_noise_multiplier=1e-3)
STRICT = OPEN.model_copy(update={"min_noise_multiplier": 0.9})


def charged(folder, policy, *, examples, privacy, train, rounds, factors=()) -> list[Receipt]:
    """Every training that the guard grants in one run, until it refuses."""
    receipts: list[Receipt] = []

    def asked(number: int) -> Task:
        factor = factors[number % len(factors)] if factors else 1.0
        return task(
            round=number,
            rounds=rounds + privacy.spare_rounds,
            privacy=privacy.model_dump(),
            train=train.model_dump(),
            noise_factor=factor,
        )

    for number in range(1, rounds + privacy.spare_rounds + 1):
        grant = guard(folder, policy).authorise(asked(number), STATE, examples=examples)
        assert grant.receipt is not None
        receipts.append(verified(grant.receipt))
    with pytest.raises(Refusal, match="participation-cap-reached"):
        guard(folder, policy).authorise(asked(len(receipts) + 1), STATE, examples=examples)
    return receipts


def some_terms(draw: random.Random) -> tuple[int, PrivacySettings, TrainSettings, int]:
    """Examples, privacy, train and rounds of a run that somebody could ask for."""
    budget = draw.choice([{"epsilon": draw.uniform(0.3, 8)}, {"noise_multiplier": draw.uniform(0.6, 4)}])
    if draw.random() < 0.3:
        budget = {"epsilon": 3.0, "noise_multiplier": draw.uniform(0.6, 4)}
    if "epsilon" in budget and draw.random() < 0.3:
        budget["adapt"] = {"below": 0.9}
    privacy = PrivacySettings(**budget, spare_rounds=draw.choice([0, 0, 2]))
    train = TrainSettings(batch_size=draw.choice([8, 32, 64]), steps=draw.choice([1, 6, 20]))
    return draw.choice([3, 20, 499, 1990, draw.randint(10, 30_000)]), privacy, train, draw.randint(1, 4)


@pytest.mark.parametrize("name", PRIVATE_RECIPES)
def test_the_steps_that_an_audit_holds_a_packaged_recipe_to_are_the_guards(tmp_path, name):
    asked = recipe(name)
    granted = [
        guard(tmp_path, SIMULATION)
        .authorise(
            task(
                round=number,
                rounds=asked.most_charges,
                privacy=asked.privacy.model_dump(),
                train=asked.train.model_dump(),
            ),
            STATE,
            examples=1990,
        )
        .mechanism
        for number in (1, 2)
    ]
    site = ClientSettings(
        site="a", coordinator="c:1", state=tmp_path, data=SiteData(train=tmp_path / "rows.csv", dataset="tickets")
    )
    audited = Federation.claims(cast(Federation, SimpleNamespace(site=site)))
    assert audited == [
        Claim(rate=one.rate, noise_multiplier=one.noise_multiplier, clip=one.clip, batch=one.expected_batch)
        for one in granted
        for _ in range(one.steps)
    ]
    assert len(audited) == 2 * asked.train.steps


def analytic_delta(target: float, sigma: float) -> float:
    """δ(ε) = Φ(1/2σ - εσ) - e^ε Φ(-1/2σ - εσ)."""

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return phi(0.5 / sigma - target * sigma) - math.exp(target) * phi(-0.5 / sigma - target * sigma)


@pytest.mark.parametrize("seed", range(24))
def test_the_plans_at_most_is_never_below_what_the_guard_charges_and_equal_where_sigma_is_as_planned(tmp_path, seed):
    draw = random.Random(seed)
    examples, privacy, train, rounds = some_terms(draw)
    said = planned_epsilon(examples, privacy=privacy, train=train, rounds=rounds)
    planned = planned_mechanism(examples, privacy=privacy, train=train, rounds=rounds)
    policy = STRICT if privacy.noise_multiplier is None and seed % 2 == 0 else OPEN
    factors = (0.01, 2.0, 1.0) if privacy.adapt else ()
    receipts = charged(
        tmp_path, policy, examples=examples, privacy=privacy, train=train, rounds=rounds, factors=factors
    )
    assert said >= receipts[-1].epsilon_run
    assert {receipt.rate for receipt in receipts} == {planned.rate}
    if privacy.adapt is None and receipts[-1].noise_multiplier == planned.noise_multiplier:
        assert said == receipts[-1].epsilon_run


@pytest.mark.parametrize(("examples", "spare"), [(1990, 0), (499, 0), (5000, 10)])
def test_the_size_ladder_and_spare_rounds_are_in_what_is_said(tmp_path, examples, spare):
    """Each was less on the page than at the site: q by the true size, and no spare round."""
    privacy, train = PrivacySettings(noise_multiplier=0.8, spare_rounds=spare), TrainSettings(batch_size=64, steps=10)
    receipts = charged(tmp_path, OPEN, examples=examples, privacy=privacy, train=train, rounds=4)
    plan = plan_client(examples, privacy=privacy, train=train, rounds=4)
    assert plan.epsilon_at_most == receipts[-1].epsilon_run
    naive = epsilon([Event(rate=64 / examples, noise_multiplier=0.8, steps=40)], delta=1e-5)
    assert plan.epsilon_at_most > 1.1 * naive


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(0.01, 0.05, 5000), (0.01, 1.0, 100_000), (0.001, 0.05, 5000), (0.05, 0.02, 500)]
)
def test_a_tiny_epsilon_is_met_with_hardly_more_noise_than_it_needs(target, rate, steps):
    sigma = noise_multiplier_for(target, delta=1e-5, rate=rate, steps=steps)

    def after(noise: float) -> float:
        return epsilon([Event(rate=rate, noise_multiplier=noise, steps=steps)], delta=1e-5)

    assert after(sigma) <= target < after(0.995 * sigma)


def test_a_tiny_epsilon_of_one_gaussian_is_what_the_analytic_mechanism_says():
    """Balle and Wang 2018, ε 0.001 at δ 1e-5: within 1 % of the smallest σ."""
    sigma = noise_multiplier_for(0.001, delta=1e-5, rate=1.0, steps=1)
    assert analytic_delta(0.001, 0.99 * sigma) > 1e-5 >= analytic_delta(0.001, sigma)


def test_a_site_charges_a_run_of_tiny_epsilon_and_one_that_adapts(tmp_path):
    for name, privacy in (("plain", {"epsilon": 0.01}), ("adapts", {"epsilon": 0.01, "adapt": {"below": 0.9}})):
        receipts = charged(
            tmp_path / name,
            OPEN,
            examples=1000,
            privacy=PrivacySettings(**privacy),
            train=TrainSettings(batch_size=32, steps=100),
            rounds=3,
        )
        assert 0.005 < receipts[-1].epsilon_run <= 0.01


def test_what_no_noise_can_meet_is_a_refusal_by_name(tmp_path):
    asked = task(privacy={"epsilon": 1e-7, "delta": 1e-12}, train={"batch_size": 32, "steps": 100_000}, rounds=9)
    with pytest.raises(UnreachableError, match=r"above 1e\+06; ask for fewer rounds or steps, or a larger epsilon"):
        planned_mechanism(1000, privacy=asked.privacy, train=asked.train, rounds=9)
    with pytest.raises(Refusal, match="budget-unreachable"):
        guard(tmp_path, OPEN).authorise(asked, STATE, examples=1000)
