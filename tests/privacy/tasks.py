"""Tasks as a coordinator would send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.wire import WireSettings
from fedlora.privacy.guard import Guard
from fedlora.privacy.policy import Policy
from fedlora.privacy.signing import load_or_create_key
from fedlora.protocol.task import Task
from fedlora.updates import Factor

STATE = b"packed state"


def task(*, privacy: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **changes: Any) -> Task:
    values: dict[str, Any] = {
        "run": "run-1",
        "round": 1,
        "rounds": 3,
        "seed": 7,
        "strategy": "ffa",
        "trains": (Factor.B, Factor.DENSE),
        "model": ModelSettings(),
        "fingerprint": "f00d",
        "labels": ("no", "yes"),
        "adapter": AdapterSettings(),
        "train": TrainSettings(**{"optimizer": "sgd", "lr": 0.1, "batch_size": 32, "steps": 2, **(train or {})}),
        "privacy": PrivacySettings(**({"epsilon": 3.0} if privacy is None else privacy)),
        "wire": WireSettings(),
    }
    return Task(**{**values, **changes})


def guard(site: Path, policy: Policy | None = None, *, dataset: str = "tickets") -> Guard:
    """One that allows the base model of these tasks, and besides what the policy says."""
    policy = policy or Policy()
    policy = policy if policy.base_models else policy.model_copy(update={"base_models": ("demo",)})
    key = load_or_create_key(site / "privacy" / "key.pem")
    return Guard(site, client="a", dataset=dataset, policy=policy, key=key)
