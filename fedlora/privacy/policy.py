"""The site's policy: one YAML file, read by the client alone. Nothing that arrives in a message is ever read from it.

    # site.yaml's neighbour, policy.yaml
    largest_epsilon: 6.0
    coordinators: [hospital-net]
    datasets:
      tickets:
        largest_epsilon: 3.0        # this dataset's own lifetime budget
        epsilon_per_run: 1.0        # and its own ε in every run, whatever a recipe asks for (FedMentor)
        public_examples: 2400

Guarantee: `require_allowed` either returns, and then every bound below holds for the task, or raises a Refusal whose
code names the bound. A site without a policy file has the defaults below, which are strict.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.settings import PrivacySettings
from fedlora.settings import Settings, parse, read_mapping
from fedlora.task import Task


class DatasetPolicy(Settings):
    """Bounds of one dataset; what is not given is the site's."""

    largest_epsilon: float | None = Field(None, gt=0)
    """Lifetime budget: ε of everything ever done to this dataset, across runs."""

    largest_delta: float | None = Field(None, gt=0, lt=1)
    """δ at which that budget is counted, and the largest δ that a task may ask for."""

    epsilon_per_run: float | None = Field(None, gt=0)
    """Target ε in every run if that is smaller than the recipe's: sensitive domains take more noise."""

    public_examples: int | None = Field(None, ge=1)
    """The dataset's size as it may be known: sampling rate, denominator and weight come from it. Not given: the actual
    size rounded down to a coarse ladder, which tells its order of magnitude."""


class Policy(Settings):
    """What this site allows. Every default is the strict side."""

    require_privacy: bool = True
    """Refuse to train without differential privacy."""

    largest_epsilon: float = Field(8.0, gt=0)
    """Lifetime budget of each dataset: ε of everything ever done to it, across runs (add/remove one example)."""

    largest_delta: float = Field(1e-5, gt=0, lt=1)
    """δ at which the budget is counted, and the largest δ that a task may ask for."""

    smallest_noise_multiplier: float = Field(0.3, gt=0)
    """Least σ. A calibrated σ below it is raised to it; a recipe that asks for less is refused."""

    largest_clip: float = Field(10.0, gt=0)
    """Largest clipping norm C."""

    strategies: tuple[str, ...] | None = None
    """Allowed strategies; any when not given."""

    base_models: tuple[str, ...] | None = None
    """Allowed base models, by id or by fingerprint; any when not given."""

    coordinators: tuple[str, ...] | None = None
    """Allowed coordinators; any when not given."""

    allow_insecure_noise: bool = False
    """Accept `privacy.insecure_seed`: noise that a seed repeats. For tests and simulations only."""

    allow_metrics: bool = False
    """Accept `privacy.report_metrics`: losses and accuracies on this site's data leave it without noise."""

    datasets: dict[str, DatasetPolicy] = Field(default_factory=dict)
    """Bounds per dataset."""

    def dataset(self, name: str) -> DatasetPolicy:
        """The dataset's bounds with the site's filled in."""
        own = self.datasets.get(name, DatasetPolicy())
        return own.model_copy(
            update={
                "largest_epsilon": own.largest_epsilon or self.largest_epsilon,
                "largest_delta": own.largest_delta or self.largest_delta,
            }
        )


SIMULATION = Policy(
    require_privacy=False,
    largest_epsilon=1e6,
    largest_delta=0.1,
    smallest_noise_multiplier=1e-3,
    largest_clip=1e6,
    allow_insecure_noise=True,
    allow_metrics=True,
)
"""Simulated sites hold nobody's data: they allow what a recipe asks."""


def load_policy(path: Path) -> Policy:
    """The policy at `path`; the strict defaults if there is no such file; SettingsError if it cannot be read."""
    if not path.exists():
        return Policy()
    return parse(Policy, read_mapping(path, f"the policy {path}"))


def require_allowed(policy: Policy, task: Task, *, dataset: str) -> None:
    """Refuse a task that the policy does not allow, budgets aside."""
    _require_listed(
        policy.coordinators, (task.coordinator,), Code.COORDINATOR_NOT_ALLOWED, "coordinator", "coordinators"
    )
    _require_listed(policy.strategies, (task.strategy,), Code.STRATEGY_NOT_ALLOWED, "strategy", "strategies")
    _require_listed(
        policy.base_models, (task.model.id, task.fingerprint), Code.BASE_NOT_ALLOWED, "base model", "base_models"
    )
    asked = task.privacy
    if not asked.enabled:
        if policy.require_privacy:
            raise Refusal(
                Code.PRIVACY_REQUIRED,
                "the task trains without privacy and the policy's require_privacy is true; set privacy.epsilon in the "
                "recipe.",
            )
        return
    _require_nothing_leaks(policy, asked)
    _require_noise(policy, asked, policy.dataset(dataset))


def _require_nothing_leaks(policy: Policy, asked: PrivacySettings) -> None:
    if asked.insecure_seed is not None and not policy.allow_insecure_noise:
        raise Refusal(
            Code.INSECURE_NOISE,
            "the task asks for noise from a seed; take privacy.insecure_seed out of the recipe, or set the policy's "
            "allow_insecure_noise where the data are nobody's.",
        )
    if asked.report_metrics and not policy.allow_metrics:
        raise Refusal(
            Code.METRICS_NOT_ALLOWED,
            "the task asks for losses and accuracies on this site's data; take privacy.report_metrics out of the "
            "recipe, or set the policy's allow_metrics.",
        )


def _require_noise(policy: Policy, asked: PrivacySettings, bounds: DatasetPolicy) -> None:
    if asked.clip > policy.largest_clip:
        raise Refusal(
            Code.CLIP_TOO_LARGE,
            f"clip {asked.clip} exceeds the policy's largest_clip {policy.largest_clip}; lower privacy.clip.",
        )
    if asked.noise_multiplier is not None and asked.noise_multiplier < policy.smallest_noise_multiplier:
        raise Refusal(
            Code.NOISE_TOO_SMALL,
            f"noise multiplier {asked.noise_multiplier} is below the policy's smallest_noise_multiplier "
            f"{policy.smallest_noise_multiplier}; raise privacy.noise_multiplier.",
        )
    bound = bounds.largest_delta
    assert bound is not None
    if asked.delta > bound:
        raise Refusal(
            Code.DELTA_TOO_LARGE,
            f"delta {asked.delta} exceeds the policy's largest_delta {bound}; lower privacy.delta.",
        )


def _require_listed(allowed: tuple[str, ...] | None, names: tuple[str, ...], code: Code, what: str, key: str) -> None:
    if allowed is not None and not set(names) & set(allowed):
        raise Refusal(
            code, f"{what} {names[0]!r} is not among the policy's {key} ({', '.join(allowed) or 'none'}); add it there."
        )
