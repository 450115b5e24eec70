"""The site's policy: one YAML file, read by the client alone. Nothing that arrives in a message is ever read from it.

    # client.yaml's neighbour, policy.yaml
    epsilon_budget: 6.0
    coordinators: [hospital-net]
    base_models: [sentence-transformers/all-MiniLM-L6-v2]   # nothing else is ever loaded for a message
    datasets:
      tickets:
        epsilon_budget: 3.0        # this dataset's own lifetime budget
        epsilon_per_period: 1.0     # ε of any 30 days, whatever runs and coordinators are called (FedMentor)
        public_examples: 2400

Guarantee: `require_allowed` and, of what was loaded, `require_loaded_base` either return, and then every bound below
holds for the task, or raise a Refusal whose code names the bound. Without a policy file the strict defaults below hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedlora.config.privacy import PrivacySettings
from fedlora.config.train import OPTIMIZERS
from fedlora.plugins.gate import Packages, not_allowed
from fedlora.plugins.names import Kind, is_plug_in, target_of
from fedlora.privacy.refusal import Code, Refusal
from fedlora.protocol.task import Task
from fedlora.settings import FormerName, Settings, parse, read_mapping
from fedlora.tasks.registry import TASKS

FINGERPRINT = re.compile(r"[0-9a-f]{32}")
"""An entry of `base_models` of this form is a fingerprint, every other one an id."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)


class DatasetPolicy(Settings):
    """Limits of one dataset; where not given, the site's limits apply."""

    epsilon_budget: Annotated[float | None, FormerName("largest_epsilon")] = Field(None, gt=0)
    """Lifetime budget: largest ε of everything ever done with this dataset, across all runs."""

    max_delta: Annotated[float | None, FormerName("largest_delta")] = Field(None, gt=0, lt=1)
    """δ at which that budget is counted, and the largest δ that a task may ask for."""

    epsilon_per_period: float | None = Field(None, gt=0)
    """Largest ε of everything done with this dataset within any `period_days`, across all runs and coordinators. It is
    also the target of every run whose recipe asks for more: sensitive data get more noise."""

    period_days: float = Field(30.0, gt=0)
    """Length of that period in days, by this site's own clock."""

    public_examples: int | None = Field(None, ge=1)
    """The dataset's size as outsiders may know it: sampling rate, denominator, weight and the bound on δ are
    computed from it alone. If not given, the actual size rounded down to a coarse ladder, which reveals its order of
    magnitude."""

    @model_validator(mode="before")
    @classmethod
    def _said_what_it_did_not_bind(cls, values: Any) -> Any:
        if isinstance(values, dict) and "epsilon_per_run" in values:
            raise ValueError(
                "epsilon_per_run was a bound per run name, and a coordinator can start any number of "
                "names; use epsilon_per_period, which bounds all runs within period_days (30) together."
            )
        return values


class Policy(Settings):
    """What this site allows. Every default is strict."""

    require_privacy: bool = True
    """Refuse to train without differential privacy."""

    epsilon_budget: Annotated[float, FormerName("largest_epsilon")] = Field(8.0, gt=0)
    """Lifetime budget of each dataset: largest ε of everything ever done with it, across all runs (add/remove one
    example)."""

    max_delta: Annotated[float, FormerName("largest_delta")] = Field(1e-5, gt=0, lt=1)
    """δ at which the budget is counted; also the largest δ that a task may use."""

    min_noise_multiplier: Annotated[float, FormerName("smallest_noise_multiplier")] = Field(0.3, gt=0)
    """Smallest σ. A smaller calibrated σ is raised to it; a recipe that sets a smaller one is refused."""

    max_clip: Annotated[float, FormerName("largest_clip")] = Field(10.0, gt=0)
    """Largest clipping norm C."""

    strategies: tuple[str, ...] | None = None
    """Allowed strategies; any if not given. A strategy listed here may train, keep and adapt only what its name stands
    for (`strategies.asks`)."""

    base_models: tuple[str, ...] | Literal["any"] = ()
    """Allowed base models; none if not given. An id (or a folder, exactly as a task names it) allows the model that
    this machine has under that name; a fingerprint allows the model with that fingerprint under any id, but never from
    a folder that a task names. `any` allows every model: use it only if the data are not real. `fedlora client doctor
    --model ID` prints the line to write."""

    plugins: Packages = Field(default_factory=dict)
    """Packages whose tasks and optimisers a task may name, and folders of base models with code of their own, each with
    the hash of its files as `fedlora plugins` or the refusal prints it; none if not given. Such code runs beside the
    data and can do whatever this process can: list it only after reading it. `any`: every module, and no folder."""

    coordinators: tuple[str, ...] | None = None
    """Allowed coordinators; any if not given."""

    allow_insecure_noise: bool = False
    """Accept `privacy.insecure_seed`: noise that the seed can repeat. For tests and simulations only."""

    allow_metrics: bool = False
    """Accept `privacy.report_metrics`: losses and metrics on this site's data are sent without noise."""

    datasets: dict[str, DatasetPolicy] = Field(default_factory=dict)
    """Limits per dataset."""

    def dataset(self, name: str) -> DatasetPolicy:
        """The dataset's bounds with the site's filled in."""
        own = self.datasets.get(name, DatasetPolicy())
        return own.model_copy(
            update={
                "epsilon_budget": own.epsilon_budget or self.epsilon_budget,
                "max_delta": own.max_delta or self.max_delta,
            }
        )


SIMULATION = Policy(
    require_privacy=False,
    epsilon_budget=1e6,
    max_delta=0.1,
    min_noise_multiplier=1e-3,
    max_clip=1e6,
    base_models="any",
    plugins="any",
    allow_insecure_noise=True,
    allow_metrics=True,
)
"""Policy of simulated sites: their data are not private, so they allow what a recipe asks."""


def load_policy(path: Path) -> Policy:
    """The policy at `path`; the strict defaults if there is no such file; SettingsError if it cannot be read."""
    if not path.exists():
        return Policy()
    return parse(Policy, read_mapping(path, f"the policy {path}"))


def require_allowed(policy: Policy, task: Task, *, dataset: str) -> None:
    """Refuse a task that the policy does not allow, budgets aside, before anything that it names is loaded."""
    _require_listed(policy.coordinators, task.coordinator, Code.COORDINATOR_NOT_ALLOWED, "coordinator", "coordinators")
    _require_listed(policy.strategies, task.strategy, Code.STRATEGY_NOT_ALLOWED, "strategy", "strategies")
    for kind, name, own in ((Kind.TASK, task.model.task, TASKS), (Kind.OPTIMIZER, task.train.optimizer, OPTIMIZERS)):
        require_plug_in(policy, kind, name, own)
    asked = task.privacy
    if not asked.enabled:
        if policy.require_privacy:
            raise Refusal(
                Code.PRIVACY_REQUIRED,
                "the task trains without privacy and the policy's require_privacy is true; set privacy.epsilon in the "
                "recipe.",
            )
    else:
        _require_no_dropout(task)
        _require_no_count(task)
        _require_nothing_leaks(policy, asked)
        _require_noise(policy, asked, policy.dataset(dataset))
    _require_named_base(policy, task)


def require_plug_in(policy: Policy, kind: Kind, name: str, own: Collection[str]) -> None:
    """Refuse a name of somebody else's code, before anything of it is imported, unless the policy lists its package."""
    if not is_plug_in(kind, name, own):
        return
    target = target_of(kind, name)
    assert target is not None
    why = not_allowed(target, policy.plugins)
    if why is not None:
        raise Refusal(Code.PLUG_IN_NOT_ALLOWED, f"the {kind.noun} {name!r} is a plug-in, and {why} (policy.yaml)")


def require_loaded_base(policy: Policy, task: Task, *, fingerprint: str) -> None:
    """Refuse a loaded base model that is not the coordinator's, or that was allowed by a fingerprint it does not have.

    `fingerprint` is that of the model and the tokenizer which were loaded: what the task says of them proves nothing.
    """
    if fingerprint != (expected := task.expected_fingerprint):
        raise Refusal(
            Code.WRONG_BASE,
            f"{task.model.id!r} on this machine has the fingerprint {fingerprint}, but the coordinator's has "
            f"{expected!r}: weights, configuration, tokenizer or chat template differ, both being held in "
            f"{task.model.load_dtype}. Use the same copy on both sides; `fedlora client doctor --model ID --load-dtype "
            f"{task.model.load_dtype}` and `fedlora server doctor` say which part it is.",
        )
    if policy.base_models != "any" and task.model.id not in _ids(policy) and fingerprint not in policy.base_models:
        raise _base_refused(policy, task)


def _require_named_base(policy: Policy, task: Task) -> None:
    """An id that is listed, or one from a hub's cache whose fingerprint may turn out to be: a folder is never tried."""
    ids = _ids(policy)
    if policy.base_models == "any" or task.model.id in ids:
        return
    if len(ids) < len(policy.base_models) and not names_a_folder(task.model.id):
        return
    raise _base_refused(policy, task)


def _ids(policy: Policy) -> list[str]:
    """The entries that are no fingerprints: a model that is called like a fingerprint does not have it."""
    return [entry for entry in policy.base_models if not FINGERPRINT.fullmatch(entry)]


def names_a_folder(model_id: str) -> bool:
    """Whether loading this id would read a path of this machine.

    >>> names_a_folder("demo"), names_a_folder("../../home/somebody/model")
    (False, True)
    """
    return HUB_ID.fullmatch(model_id) is None or Path(model_id).exists()


def _base_refused(policy: Policy, task: Task) -> Refusal:
    listed = [*policy.base_models, task.model.id]
    return Refusal(
        Code.BASE_NOT_ALLOWED,
        f"base model {task.model.id!r} is not among the policy's base_models ({', '.join(policy.base_models) or 'none'}"
        f"). To allow it, write in policy.yaml: base_models: {json.dumps(listed)} - `fedlora client doctor "
        "--model` prints the fingerprint of this machine's model of that name.",
    )


def _require_no_dropout(task: Task) -> None:
    if task.adapter.dropout > 0:
        raise Refusal(
            Code.DROPOUT,
            f"adapter.dropout is {task.adapter.dropout}, but private steps train without dropout: masks depend on the "
            "place in the batch, so one more example would change those of others. Set adapter.dropout=0.",
        )


def _require_no_count(task: Task) -> None:
    if task.train.local_epochs is not None:
        raise Refusal(
            Code.PRIVATE_COUNT,
            f"train.local_epochs is {task.train.local_epochs}, but the number of private steps must not depend on the "
            "number of rows: a charge would tell it. Set train.steps.",
        )
    if task.weigh_by == "tokens":
        raise Refusal(
            Code.PRIVATE_COUNT,
            "strategy.weighting is tokens, and how many tokens this site's rows have is private; use examples, which "
            "counts the public size.",
        )


def _require_nothing_leaks(policy: Policy, asked: PrivacySettings) -> None:
    if asked.insecure_seed is not None and not policy.allow_insecure_noise:
        raise Refusal(
            Code.INSECURE_NOISE,
            "the task asks for noise from a seed; remove privacy.insecure_seed from the recipe, or set the "
            "policy's allow_insecure_noise if the data are not real.",
        )
    if asked.report_metrics and not policy.allow_metrics:
        raise Refusal(
            Code.METRICS_NOT_ALLOWED,
            "the task asks for losses and accuracies on this site's data; remove privacy.report_metrics "
            "from the recipe, or set the policy's allow_metrics.",
        )


def _require_noise(policy: Policy, asked: PrivacySettings, bounds: DatasetPolicy) -> None:
    if asked.clip > policy.max_clip:
        raise Refusal(
            Code.CLIP_TOO_LARGE,
            f"clip {asked.clip} exceeds the policy's max_clip {policy.max_clip}; lower privacy.clip.",
        )
    if asked.noise_multiplier is not None and asked.noise_multiplier < policy.min_noise_multiplier:
        raise Refusal(
            Code.NOISE_TOO_SMALL,
            f"noise multiplier {asked.noise_multiplier} is below the policy's min_noise_multiplier "
            f"{policy.min_noise_multiplier}; raise privacy.noise_multiplier.",
        )
    bound = bounds.max_delta
    assert bound is not None
    if asked.delta > bound:
        raise Refusal(
            Code.DELTA_TOO_LARGE,
            f"delta {asked.delta} exceeds the policy's max_delta {bound}; lower privacy.delta.",
        )


def _require_listed(allowed: tuple[str, ...] | None, name: str, code: Code, what: str, key: str) -> None:
    if allowed is not None and name not in allowed:
        raise Refusal(
            code, f"{what} {name!r} is not among the policy's {key} ({', '.join(allowed) or 'none'}); add it there."
        )
