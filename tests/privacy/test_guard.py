"""The guarantees at the top of fedlora/privacy/guard.py, and receipts."""

from __future__ import annotations

import contextlib
import json

import pytest

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.budget import DAY_S
from fedlora.privacy.guard import Answer, AnsweredMeanwhile, Guard
from fedlora.privacy.ledger import Ledger, LedgerFiles, read_ledger
from fedlora.privacy.noise import SecureSource, SeededSource
from fedlora.privacy.policy import SIMULATION, DatasetPolicy, Policy
from fedlora.privacy.receipt import verified
from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.signing import SignatureError, load_or_create_key, public_text
from tests.privacy.tasks import STATE, guard, task


def charges(site, dataset: str = "tickets") -> list[dict]:
    entries = read_ledger(LedgerFiles(site, dataset), public_key=None).entries
    return [dict(entry.fields) for entry in entries if entry.kind == "charge"]


def refused(guard: Guard, asked, code: Code, *, examples: int = 2400) -> None:
    with pytest.raises(Refusal) as caught:
        guard.authorise(asked, STATE, examples=examples)
    assert caught.value.code is code
    assert "{" not in str(caught.value), "a value that was to be put into the text"


def test_the_charge_is_on_the_disk_before_authorise_returns(tmp_path):
    grant = guard(tmp_path).authorise(task(), STATE, examples=2400)
    (charge,) = charges(tmp_path)
    mechanism = grant.mechanism
    assert mechanism is not None
    for name in ("rate", "noise_multiplier", "clip", "steps", "expected_batch"):
        assert charge[name] == getattr(mechanism, name)
    assert charge["adjacency"] == "add-or-remove-one"
    assert charge["secure"] is True
    assert isinstance(grant.source(), SecureSource)


def test_without_a_charge_there_is_no_grant(tmp_path, monkeypatch):
    def full_disk(self, fields):
        raise OSError("no space left")

    monkeypatch.setattr(Ledger, "append", full_disk)
    with pytest.raises(OSError, match="no space"):
        guard(tmp_path).authorise(task(), STATE, examples=2400)


def test_rate_denominator_and_weight_come_from_the_public_size(tmp_path):
    grant = guard(tmp_path).authorise(task(), STATE, examples=2948)
    assert grant.mechanism.rate == 32 / 2500
    assert grant.mechanism.expected_batch == pytest.approx(32)
    assert grant.public_examples == 2500
    declared = Policy(datasets={"tickets": DatasetPolicy(public_examples=2400)})
    grant = guard(tmp_path / "other", declared).authorise(task(), STATE, examples=2948)
    assert (grant.mechanism.rate, grant.public_examples) == (32 / 2400, 2400)


def test_a_dataset_smaller_than_a_batch_is_drawn_whole(tmp_path):
    grant = guard(tmp_path).authorise(task(), STATE, examples=10)
    assert (grant.mechanism.rate, grant.mechanism.expected_batch) == (1.0, 10.0)


def test_all_rounds_together_meet_the_target_and_the_ledger_equals_one_composition(tmp_path):
    site = guard(tmp_path)
    receipts = [verified(site.authorise(task(round=r, rounds=5), STATE, examples=2400).receipt) for r in range(1, 6)]
    assert 3.0 * 0.98 < receipts[-1].epsilon_run <= 3.0
    assert [r.epsilon_run for r in receipts] == sorted(r.epsilon_run for r in receipts)
    (sigma,) = {charge["noise_multiplier"] for charge in charges(tmp_path)}
    once = epsilon([Event(rate=32 / 2000, noise_multiplier=sigma, steps=10)], delta=1e-5)
    assert receipts[-1].epsilon_run == once


def test_no_more_rounds_than_sigma_was_calibrated_for(tmp_path):
    site = guard(tmp_path)
    for number in (1, 2):
        site.authorise(task(round=number, rounds=2), STATE, examples=2400)
    refused(site, task(round=3, rounds=2), Code.PARTICIPATION_CAP)
    assert len(charges(tmp_path)) == 2


def test_a_run_that_raises_its_round_count_still_ends_at_its_target(tmp_path):
    site = guard(tmp_path)
    site.authorise(task(rounds=1), STATE, examples=2400)
    refused(site, task(round=2, rounds=2), Code.BUDGET_EXHAUSTED)


def test_the_lifetime_budget_spans_runs(tmp_path):
    site = guard(tmp_path, Policy(epsilon_budget=3.2))
    site.authorise(task(rounds=1), STATE, examples=2400)
    refused(site, task(run="run-2", rounds=1), Code.BUDGET_EXHAUSTED)
    site.authorise(task(run="run-2", rounds=1, privacy={"epsilon": 0.5}), STATE, examples=2400)
    spent = [Event(rate=c["rate"], noise_multiplier=c["noise_multiplier"], steps=c["steps"]) for c in charges(tmp_path)]
    assert epsilon(spent, delta=1e-5) <= 3.2


def test_datasets_have_their_own_budgets(tmp_path):
    policy = Policy(epsilon_budget=4.0)
    guard(tmp_path, policy).authorise(task(rounds=1), STATE, examples=2400)
    guard(tmp_path, policy, dataset="scans").authorise(task(run="run-2", rounds=1), STATE, examples=2400)
    assert len(charges(tmp_path)) == len(charges(tmp_path, "scans")) == 1


def test_a_sensitive_dataset_takes_more_noise_than_the_recipe_asks(tmp_path):
    plain = guard(tmp_path / "a").authorise(task(), STATE, examples=2400)
    policy = Policy(datasets={"tickets": DatasetPolicy(epsilon_per_period=0.5)})
    sensitive = guard(tmp_path / "b", policy).authorise(task(), STATE, examples=2400)
    assert sensitive.mechanism.noise_multiplier > plain.mechanism.noise_multiplier
    assert verified(sensitive.receipt).epsilon_run < 0.5


def test_an_answered_task_gets_the_same_bytes_and_is_not_charged_again(tmp_path):
    site = guard(tmp_path)
    assert site.answered(task(), STATE) is None
    grant = site.authorise(task(), STATE, examples=2400)
    answer = Answer('{"outcome": "trained"}', bytes(range(256)))
    site.record(grant, answer)
    assert guard(tmp_path).answered(task(), STATE) == answer
    assert len(charges(tmp_path)) == 1
    assert site.answered(task(), STATE + b"!") is None
    assert site.answered(task(round=2), STATE) is None


def test_a_task_that_died_after_its_charge_is_charged_again(tmp_path):
    for _ in range(2):
        guard(tmp_path).authorise(task(), STATE, examples=2400)
    assert len(charges(tmp_path)) == 2


def test_of_two_processes_with_one_task_the_first_answer_is_what_both_send(tmp_path):
    ours, theirs = guard(tmp_path), guard(tmp_path)
    grants = [one.authorise(task(), STATE, examples=2400) for one in (ours, theirs)]
    first = Answer("{}", b"first")
    assert ours.record(grants[0], first) == first
    assert theirs.record(grants[1], Answer("{}", b"second")) == first
    assert ours.answered(task(), STATE) == first
    assert len(charges(tmp_path)) == 2


def test_a_task_that_was_answered_meanwhile_is_not_charged_again(tmp_path):
    """Both had asked before either answered, and in between the next task was charged: its receipt would cover less."""
    ours, theirs = guard(tmp_path), guard(tmp_path)
    assert theirs.answered(task(), STATE) is None
    first = Answer("{}", b"first")
    ours.record(ours.authorise(task(), STATE, examples=2400), first)
    ours.authorise(task(round=2), STATE, examples=2400)
    with pytest.raises(AnsweredMeanwhile) as caught:
        theirs.authorise(task(), STATE, examples=2400)
    assert caught.value.answer == first
    assert len(charges(tmp_path)) == 2


def test_the_lifetime_is_counted_at_the_smaller_delta(tmp_path):
    receipts = [
        verified(guard(tmp_path / name, policy).authorise(asked, STATE, examples=2400).receipt)
        for name, policy, asked in (
            ("a", Policy(max_delta=1e-4), task()),
            ("b", Policy(max_delta=1e-5), task(privacy={"epsilon": 3.0, "delta": 1e-6})),
        )
    ]
    assert [receipt.delta_lifetime for receipt in receipts] == [1e-5, 1e-6]


def test_an_answer_whose_file_was_changed_is_not_released(tmp_path):
    site = guard(tmp_path)
    grant = site.authorise(task(), STATE, examples=2400)
    site.record(grant, Answer("{}", b"true"))
    LedgerFiles(tmp_path, "tickets").answer(grant.task).write_bytes(b"else")
    with pytest.raises(Refusal, match="is not the answer") as caught:
        site.answered(task(), STATE)
    assert caught.value.code is Code.LEDGER_DAMAGED


def test_receipts_are_signed_and_bound_to_the_ledger(tmp_path):
    grant = guard(tmp_path).authorise(task(), STATE, examples=2400)
    key = public_text(load_or_create_key(tmp_path / "privacy" / "key.pem"))
    receipt = verified(grant.receipt, public_key=key)
    (entry,) = read_ledger(LedgerFiles(tmp_path, "tickets"), public_key=key).entries
    assert (receipt.sequence, receipt.digest) == (entry.sequence, entry.digest)
    assert (receipt.adjacency, receipt.unit) == ("add-or-remove-one", "example")
    assert 2400 not in receipt.model_dump().values(), "the true number of examples stays at the site"
    forged = json.loads(grant.receipt)
    forged["receipt"]["epsilon_lifetime"] = 0.1
    with pytest.raises(SignatureError):
        verified(json.dumps(forged))
    other = load_or_create_key(tmp_path / "other.pem")
    with pytest.raises(SignatureError):
        verified(grant.receipt, public_key=public_text(other))


def test_seeded_noise_is_marked_everywhere_and_differs_by_client_round_and_charge(tmp_path):
    asked = task(privacy={"epsilon": 3.0, "insecure_seed": 5})
    first = guard(tmp_path, SIMULATION).authorise(asked, STATE, examples=2400)
    again = guard(tmp_path, SIMULATION).authorise(asked, STATE, examples=2400)
    key = load_or_create_key(tmp_path / "privacy" / "key.pem")
    other = Guard(tmp_path / "b", client="b", dataset="tickets", policy=SIMULATION, key=key)
    theirs = other.authorise(asked, STATE, examples=2400)
    draws = {grant.source().fresh().gaussian(1)[0] for grant in (first, again, theirs)}
    assert len(draws) == 3
    assert isinstance(first.source(), SeededSource)
    assert charges(tmp_path)[0]["secure"] is False
    assert verified(first.receipt).secure is False
    later = guard(tmp_path, SIMULATION).authorise(task(round=3), STATE, examples=2400)
    assert verified(later.receipt).secure is False, "one insecure round makes the run's figure a test's"


def test_a_site_that_allows_it_trains_without_privacy_and_without_a_charge(tmp_path):
    asked = task(privacy={})
    site = guard(tmp_path, Policy(require_privacy=False))
    grant = site.authorise(asked, STATE, examples=2400)
    assert grant.mechanism is None
    site.record(grant, Answer("{}", b""))
    assert site.answered(asked, STATE) is None
    assert charges(tmp_path) == []


def test_no_examples_is_a_refusal(tmp_path):
    refused(guard(tmp_path), task(), Code.TOO_FEW_EXAMPLES, examples=0)
    assert guard(tmp_path).authorise(task(), STATE, examples=1).mechanism.rate == 1.0


def test_delta_must_be_below_one_over_the_examples(tmp_path):
    policy = Policy(max_delta=0.01)
    asked = task(privacy={"epsilon": 3.0, "delta": 0.01})
    refused(guard(tmp_path, policy), asked, Code.DELTA_TOO_LARGE, examples=100)
    guard(tmp_path, policy).authorise(asked, STATE, examples=79)


def test_deltas_that_are_tried_one_after_the_other_do_not_find_the_number_of_examples(tmp_path):
    """Whoever sends δ after δ learns the next step of the public ladder, or the declared size, and no more."""
    declared = Policy(max_delta=0.1, datasets={"tickets": DatasetPolicy(public_examples=150)})

    def refused_at(policy: Policy, examples: int) -> list[int]:
        found = []
        for most in range(100, 200, 10):
            asked = task(privacy={"noise_multiplier": 5.0, "delta": 1 / most})
            with contextlib.suppress(Refusal):
                guard(tmp_path / f"{len(list(tmp_path.iterdir()))}", policy).authorise(asked, STATE, examples=examples)
                continue
            found.append(most)
        return found

    coarse = Policy(max_delta=0.1)
    assert refused_at(coarse, 121) == refused_at(coarse, 148) == [100, 110, 120, 130, 140, 150]
    assert {tuple(refused_at(declared, n)) for n in (121, 149, 150, 151, 169)} == {(100, 110, 120, 130, 140, 150)}


def test_a_period_bounds_all_runs_and_coordinators_together_whatever_they_are_called(tmp_path, monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    policy = Policy(epsilon_budget=20.0, datasets={"tickets": DatasetPolicy(epsilon_per_period=1.0, period_days=7)})
    site = guard(tmp_path, policy)
    first = verified(site.authorise(task(rounds=1), STATE, examples=2400).receipt)
    assert 0.9 < first.epsilon_run <= 1.0, "the period's bound is the run's target where the recipe asks for more"
    for run, coordinator in (("run-2", "local"), ("run-3", "another")):
        refused(site, task(run=run, rounds=1, coordinator=coordinator), Code.BUDGET_EXHAUSTED)
    now[0] += 6.9 * DAY_S
    refused(site, task(run="run-4", rounds=1), Code.BUDGET_EXHAUSTED)
    now[0] += 0.2 * DAY_S
    site.authorise(task(run="run-5", rounds=1), STATE, examples=2400)
    now[0] -= 30 * DAY_S
    refused(site, task(run="run-6", rounds=1), Code.BUDGET_EXHAUSTED)  # a clock that was put back forgets nothing
    assert len(charges(tmp_path)) == 2


def test_a_run_within_its_period_may_take_all_its_rounds(tmp_path):
    policy = Policy(datasets={"tickets": DatasetPolicy(epsilon_per_period=1.0)})
    receipts = [
        verified(guard(tmp_path, policy).authorise(task(round=r, rounds=4), STATE, examples=2400).receipt)
        for r in range(1, 5)
    ]
    assert 0.95 < receipts[-1].epsilon_run <= 1.0
