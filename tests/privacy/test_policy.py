"""The policy belongs to the site: every setting that a coordinator, a recipe or a message has is tried against it."""

from __future__ import annotations

import pytest

from fedlora.config import ModelSettings
from fedlora.privacy.policy import DatasetPolicy, Policy, load_policy
from fedlora.privacy.refusal import Code, Refusal
from fedlora.settings import SettingsError
from tests.privacy.tasks import STATE, guard, task

STRICT = Policy(
    largest_epsilon=3.0,
    smallest_noise_multiplier=0.6,
    largest_clip=1.0,
    strategies=("ffa", "fedsvd"),
    base_models=("demo",),
    coordinators=("hospital-net", "local"),
)

# What a hostile coordinator, recipe or message tries, and the refusal that it gets.
ATTEMPTS = {
    "no privacy at all": (task(privacy={}), Code.PRIVACY_REQUIRED),
    "a large epsilon": (task(privacy={"epsilon": 1e6}, rounds=1, train={"steps": 5000}), Code.BUDGET_EXHAUSTED),
    "little noise": (task(privacy={"noise_multiplier": 0.01}), Code.NOISE_TOO_SMALL),
    "little noise beside an epsilon": (task(privacy={"epsilon": 1.0, "noise_multiplier": 0.1}), Code.NOISE_TOO_SMALL),
    "a large clip": (task(privacy={"epsilon": 3.0, "clip": 100.0}), Code.CLIP_TOO_LARGE),
    "a large delta": (task(privacy={"epsilon": 3.0, "delta": 0.5}), Code.DELTA_TOO_LARGE),
    "noise from its own seed": (task(privacy={"epsilon": 3.0, "insecure_seed": 1}), Code.INSECURE_NOISE),
    "the losses": (task(privacy={"epsilon": 3.0, "report_metrics": True}), Code.METRICS_NOT_ALLOWED),
    "another strategy": (task(strategy="fedit"), Code.STRATEGY_NOT_ALLOWED),
    "another base model": (task(model=ModelSettings(id="hub/evil")), Code.BASE_NOT_ALLOWED),
    "another coordinator": (task(coordinator="somebody"), Code.COORDINATOR_NOT_ALLOWED),
    "very many steps": (task(privacy={"noise_multiplier": 0.6}, train={"steps": 100_000}), Code.BUDGET_EXHAUSTED),
    "a huge batch": (
        task(privacy={"noise_multiplier": 0.6}, train={"batch_size": 10**6, "steps": 10}),
        Code.BUDGET_EXHAUSTED,
    ),
    "an impossible epsilon": (
        task(privacy={"epsilon": 1e-6}, train={"batch_size": 4000, "steps": 10**6}),
        Code.BUDGET_UNREACHABLE,
    ),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_message_weakens_the_policy(tmp_path, attempt):
    asked, code = ATTEMPTS[attempt]
    with pytest.raises(Refusal) as caught:
        guard(tmp_path, STRICT).authorise(asked, STATE, examples=2400)
    assert caught.value.code is code
    ledger = tmp_path / "privacy" / "tickets" / "ledger.jsonl"
    assert not ledger.exists(), "a refused task is not charged"


def test_the_same_task_without_the_attempts_is_allowed(tmp_path):
    guard(tmp_path, STRICT).authorise(task(), STATE, examples=2400)


def test_renaming_the_run_does_not_reset_the_budget(tmp_path):
    site = guard(tmp_path, STRICT)
    granted = 0
    with pytest.raises(Refusal) as caught:  # noqa: PT012 - some are granted first
        for number in range(100):
            site.authorise(task(run=f"run-{number}", rounds=1), STATE, examples=2400)
            granted += 1
    assert caught.value.code is Code.BUDGET_EXHAUSTED
    assert granted <= 3


def test_a_calibrated_sigma_below_the_sites_least_is_raised_to_it(tmp_path):
    policy = Policy(smallest_noise_multiplier=0.9)
    grant = guard(tmp_path, policy).authorise(task(rounds=1), STATE, examples=2400)
    assert grant.mechanism.noise_multiplier == 0.9


def test_refusal_codes_carry_no_number_and_no_text_of_the_site():
    assert all(set(code.value) <= set("abcdefghijklmnopqrstuvwxyz-") for code in Code)


def test_a_site_without_a_policy_file_is_strict(tmp_path):
    policy = load_policy(tmp_path / "policy.yaml")
    assert policy.require_privacy
    assert not policy.allow_insecure_noise
    assert not policy.allow_metrics
    assert policy.largest_epsilon == 8.0


def test_a_policy_file_is_read_and_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("largest_epsilon: 6\nlargest_delta: 1e-6\ndatasets: {tickets: {epsilon_per_period: 1}}\n")
    policy = load_policy(path)
    assert policy.dataset("tickets") == DatasetPolicy(largest_epsilon=6.0, largest_delta=1e-6, epsilon_per_period=1.0)
    assert policy.dataset("others").epsilon_per_period is None
    path.write_text("largest_epsilonn: 6\n")
    with pytest.raises(SettingsError, match="did you mean largest_epsilon"):
        load_policy(path)
    path.write_text("- 1\n")
    with pytest.raises(SettingsError, match="must hold"):
        load_policy(path)
    path.write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_policy(path)
