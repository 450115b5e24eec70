"""The policy belongs to the site: every setting that a coordinator, a recipe or a message has is tried against it."""

from __future__ import annotations

import pytest

from fedlora.config import AdapterSettings, ModelSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.privacy.policy import SIMULATION, DatasetPolicy, Policy, load_policy, require_allowed, require_loaded_base
from fedlora.privacy.refusal import Code, Refusal
from fedlora.settings import SettingsError, parse
from tests.privacy.tasks import STATE, guard, task

STRICT = Policy(
    epsilon_budget=3.0,
    min_noise_multiplier=0.6,
    max_clip=1.0,
    strategies=("ffa", "fedsvd"),
    base_models=("demo",),
    coordinators=("hospital-net", "local"),
)

BOUNDS = [
    # settings, name, what is refused, what is taken
    (Policy, "epsilon_budget", [-1.0, 0.0], [1e-9]),
    (Policy, "max_delta", [0.0, 1.0], [1e-9, 0.999]),
    (Policy, "min_noise_multiplier", [0.0], [1e-9]),
    (Policy, "max_clip", [0.0], [1e-9]),
    (DatasetPolicy, "epsilon_budget", [0.0], [1e-9]),
    (DatasetPolicy, "max_delta", [0.0, 1.0], [1e-9, 0.999]),
    (DatasetPolicy, "period_days", [0.0], [1e-9]),
    (DatasetPolicy, "public_examples", [0], [1]),
    (PrivacySettings, "epsilon", [0.0], [1e-9]),
    (PrivacySettings, "delta", [0.0, 1.0], [1e-9, 0.999]),
    (PrivacySettings, "noise_multiplier", [0.0, 1.1e6], [1e-9, 1e6]),
    (PrivacySettings, "clip", [0.0, 0.9e-12], [1e-12]),
]


@pytest.mark.parametrize(("settings", "name", "refused", "taken"), BOUNDS)
def test_the_bounds_of_what_protects(settings, name, refused, taken):
    for value in refused:
        with pytest.raises(SettingsError, match=name):
            parse(settings, {name: value})
    for value in taken:
        assert getattr(parse(settings, {name: value}), name) == value


def test_the_defaults_of_a_site_are_the_strict_side():
    strict = Policy()
    assert (strict.require_privacy, strict.allow_insecure_noise, strict.base_models) == (True, False, ())
    assert (strict.epsilon_budget, strict.max_delta) == (8.0, 1e-5)
    assert (strict.min_noise_multiplier, strict.max_clip) == (0.3, 10.0)


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
    "dropout in the adapter": (task(adapter=AdapterSettings(dropout=0.1)), Code.DROPOUT),
    "steps by the number of rows": (task(train={"steps": None, "local_epochs": 1}), Code.PRIVATE_COUNT),
    "how many tokens its rows have": (task(weigh_by="tokens"), Code.PRIVATE_COUNT),
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
    policy = Policy(min_noise_multiplier=0.9)
    grant = guard(tmp_path, policy).authorise(task(rounds=1), STATE, examples=2400)
    assert grant.mechanism.noise_multiplier == 0.9


def test_refusal_codes_carry_no_number_and_no_text_of_the_site():
    assert all(set(code.value) <= set("abcdefghijklmnopqrstuvwxyz-") for code in Code)


def test_a_site_without_a_policy_file_is_strict(tmp_path):
    policy = load_policy(tmp_path / "policy.yaml")
    assert policy.require_privacy
    assert not policy.allow_insecure_noise
    assert not policy.allow_metrics
    assert policy.epsilon_budget == 8.0
    assert policy.base_models == ()


def test_a_policy_file_is_read_and_unknown_keys_are_refused(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("epsilon_budget: 6\nmax_delta: 1e-6\ndatasets: {tickets: {epsilon_per_period: 1}}\n")
    policy = load_policy(path)
    assert policy.dataset("tickets") == DatasetPolicy(epsilon_budget=6.0, max_delta=1e-6, epsilon_per_period=1.0)
    assert policy.dataset("others").epsilon_per_period is None
    path.write_text("datasets: {tickets: {epsilon_per_run: 1}}\n")
    with pytest.raises(
        SettingsError, match=r"tickets: epsilon_per_run was a bound per run name.*use epsilon_per_period"
    ):
        load_policy(path)
    path.write_text("epsilon_budgetn: 6\n")
    with pytest.raises(SettingsError, match="did you mean epsilon_budget"):
        load_policy(path)
    path.write_text("- 1\n")
    with pytest.raises(SettingsError, match="must hold"):
        load_policy(path)
    path.write_text("{")
    with pytest.raises(SettingsError, match="is not valid YAML for settings"):
        load_policy(path)


PRINT, OTHER = "0123456789abcdef0123456789abcdef", "f" * 32

# (what the policy lists, the id that a task names, the fingerprint that is found when it is loaded) -> the refusal; the
# task says that it is the one that is found.
BASES = [
    ((), "demo", PRINT, Code.BASE_NOT_ALLOWED),
    (("demo",), "demo", PRINT, None),
    (("demo",), "lab/encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "demo", PRINT, None),
    ((PRINT,), "lab/encoder", PRINT, None),
    ((PRINT,), "lab/encoder", OTHER, Code.BASE_NOT_ALLOWED),
    ((OTHER, "demo"), "lab/encoder", OTHER, None),
    ((PRINT,), PRINT, OTHER, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "/srv/models/encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "../encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "~/encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "a\\b", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "lab/../../encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "x" * 5000, PRINT, Code.BASE_NOT_ALLOWED),
    ((PRINT,), "lab/\0", PRINT, Code.BASE_NOT_ALLOWED),
    (("/srv/models/encoder",), "/srv/models/encoder", PRINT, None),
    (("/srv/models/encoder",), "/srv/models/../models/encoder", PRINT, Code.BASE_NOT_ALLOWED),
    ("any", "../encoder", PRINT, None),
]


@pytest.mark.parametrize(("listed", "named", "found", "code"), BASES)
def test_a_base_model_is_loaded_if_it_is_listed_and_used_if_it_is_what_was_listed(listed, named, found, code):
    policy, asked = Policy(base_models=listed), task(model=ModelSettings(id=named), fingerprint=found)
    if code is None:
        require_allowed(policy, asked, dataset="tickets")
        require_loaded_base(policy, asked, fingerprint=found)
        return
    with pytest.raises(Refusal) as caught:  # noqa: PT012 - the first of the two that can know
        require_allowed(policy, asked, dataset="tickets")
        require_loaded_base(policy, asked, fingerprint=found)
    assert caught.value.code is code


def test_a_folder_beside_the_process_is_a_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = task(model=ModelSettings(id="lab/encoder"))
    require_allowed(Policy(base_models=(PRINT,)), asked, dataset="tickets")
    (tmp_path / "lab" / "encoder").mkdir(parents=True)
    with pytest.raises(Refusal):
        require_allowed(Policy(base_models=(PRINT,)), asked, dataset="tickets")


@pytest.mark.parametrize("listed", [("demo",), (PRINT,), (OTHER,), "any"])
def test_what_the_task_says_of_a_fingerprint_proves_nothing(listed):
    asked = task(fingerprint=PRINT)
    for policy in (Policy(base_models=listed), SIMULATION):
        with pytest.raises(Refusal) as caught:
            require_loaded_base(policy, asked, fingerprint=OTHER)
        assert caught.value.code is Code.WRONG_BASE


def test_the_sites_log_says_the_line_that_would_allow_a_base_model():
    with pytest.raises(Refusal, match=r'write in policy.yaml: base_models: \["demo", "lab/encoder"\]'):
        require_allowed(Policy(base_models=("demo",)), task(model=ModelSettings(id="lab/encoder")), dataset="tickets")


def test_a_base_model_that_is_not_listed_is_refused_without_privacy_too():
    policy = Policy(require_privacy=False)
    with pytest.raises(Refusal) as caught:
        require_allowed(policy, task(privacy={}), dataset="tickets")
    assert caught.value.code is Code.BASE_NOT_ALLOWED
