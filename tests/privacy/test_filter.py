"""A run whose mechanisms are chosen on the way is priced by a Rényi filter, at the order of its first charge."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlora.privacy.accounting import Event, best_order, epsilon, filtered_epsilon
from fedlora.privacy.calibration import filter_order
from fedlora.privacy.ledger import Ledger, LedgerFiles, read_ledger
from fedlora.privacy.policy import Policy
from fedlora.privacy.receipt import verified
from fedlora.privacy.spending import charged_events
from tests.privacy.tasks import STATE, guard, task


def charges(site: Path) -> list[dict]:
    entries = read_ledger(LedgerFiles(site, "tickets"), public_key=None).entries
    return [dict(entry.fields) for entry in entries if entry.kind == "charge"]


PLANS = [{"epsilon": 3.0}, {"epsilon": 3.0, "adapt": {"below": 0.9}}, {"noise_multiplier": 1.0}]


@pytest.mark.parametrize("plan", PLANS)
def test_the_filters_order_is_that_of_the_first_charge_whatever_later_tasks_say(tmp_path, plan):
    """Later rounds, steps and ε that would have meant another order."""
    site = guard(tmp_path, Policy(epsilon_budget=200.0))
    site.authorise(task(rounds=5, privacy=plan), STATE, examples=2400)
    later = task(round=2, rounds=80, privacy={**plan, "epsilon": 20.0, "noise_multiplier": 1.2}, train={"steps": 9})
    receipt = verified(site.authorise(later, STATE, examples=2400).receipt)
    fresh = guard(tmp_path / "fresh", Policy(epsilon_budget=200.0))
    fresh.authorise(later, STATE, examples=2400)
    first, second = (charge["filter_order"] for charge in charges(tmp_path))
    assert first == second != charges(tmp_path / "fresh")[0]["filter_order"]
    spent = [Event(rate=c["rate"], noise_multiplier=c["noise_multiplier"], steps=c["steps"]) for c in charges(tmp_path)]
    assert receipt.epsilon_run == filtered_epsilon(spent, delta=1e-5, order=first)


@pytest.mark.parametrize(
    ("plan", "order"),
    [
        ({"epsilon": 3.0}, lambda found: filter_order(3.0, delta=1e-5, rate=found.rate, steps=5 * 9)),
        (
            {"noise_multiplier": 1.0},
            lambda found: best_order(
                [Event(rate=found.rate, noise_multiplier=found.noise_multiplier, steps=5 * 9)], delta=1e-5
            ),
        ),
    ],
)
def test_the_order_is_that_of_all_planned_steps(tmp_path, plan, order):
    site = guard(tmp_path, Policy(epsilon_budget=200.0))
    grant = site.authorise(task(rounds=5, privacy=plan, train={"steps": 9}), STATE, examples=2400)
    assert charges(tmp_path)[0]["filter_order"] == order(grant.mechanism)


def test_the_order_of_another_run_on_the_same_data_is_not_this_ones(tmp_path):
    first, second = task(rounds=5), task(run="run-2", rounds=80, privacy={"epsilon": 20.0}, train={"steps": 9})
    sites = [guard(tmp_path / name, Policy(epsilon_budget=200.0)) for name in ("both", "alone")]
    sites[0].authorise(first, STATE, examples=2400)
    for site in sites:
        site.authorise(second, STATE, examples=2400)
    of_first, of_second = (charge["filter_order"] for charge in charges(tmp_path / "both"))
    assert of_second == charges(tmp_path / "alone")[0]["filter_order"] != of_first
    sites[0].authorise(task(run="run-3", privacy={"noise_multiplier": 2.0}), STATE, examples=2400)
    entries = read_ledger(LedgerFiles(tmp_path / "both", "tickets"), public_key=None).entries
    for number, steps in ((1, 2), (2, 9), (3, 2)):
        assert [event.steps for event in charged_events(entries, run=f"run-{number}")] == [steps]


def test_steps_that_change_on_the_way_are_priced_by_the_filter(tmp_path):
    site = guard(tmp_path, Policy(epsilon_budget=50.0))
    asked = {"noise_multiplier": 1.0}
    site.authorise(task(rounds=3, privacy=asked), STATE, examples=2400)
    receipt = verified(site.authorise(task(round=2, privacy=asked, train={"steps": 3}), STATE, examples=2400).receipt)
    spent = [Event(rate=32 / 2000, noise_multiplier=1.0, steps=5)]
    assert receipt.epsilon_run == filtered_epsilon(spent, delta=1e-5, order=charges(tmp_path)[0]["filter_order"])
    assert receipt.epsilon_run > epsilon(spent, delta=1e-5)


def test_a_ledger_of_an_older_version_has_its_runs_order_from_its_next_charge_on(tmp_path, monkeypatch):
    site = guard(tmp_path)
    append = Ledger.append
    without = lambda self, fields: append(self, {k: v for k, v in fields.items() if k != "filter_order"})  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", without)
        site.authorise(task(rounds=3), STATE, examples=2400)
    for number in (2, 3):
        site.authorise(task(round=number, rounds=3), STATE, examples=2400)
    assert ["filter_order" in charge for charge in charges(tmp_path)] == [False, True, True]
