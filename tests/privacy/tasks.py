"""Tasks as a coordinator would send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedlora.adapters import initial_adapter
from fedlora.config import AdapterSettings, ModelSettings, TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.wire import WireSettings
from fedlora.models.loaded_model import loaded_model
from fedlora.privacy.guard import Guard
from fedlora.privacy.policy import Policy
from fedlora.privacy.signing import load_or_create_key
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from fedlora.wire.state import encode_state

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


def first_task(
    on: ModelSettings, labels: tuple[str, ...], /, *trains: Factor, adapter: AdapterSettings, **changes: Any
) -> tuple[Task, bytes]:
    """Two steps of eight on the base that `on` names, and the state that comes with them."""
    home = loaded_model(on, adapter, labels)
    values = {"model": on, "adapter": adapter, "labels": labels, "trains": trains, "fingerprint": home.base.fingerprint}
    asked = task(**{**values, "train": {"batch_size": 8, "steps": 2}, **changes})
    initial = initial_adapter(home.model, adapter, seed=0)
    return asked, encode_state(initial, {}, run=asked.run, round_number=1, strategy="ffa", codec="fp32")


def guard(site: Path, policy: Policy | None = None, *, dataset: str = "tickets") -> Guard:
    """One that allows the base model of these tasks, and besides what the policy says."""
    policy = policy or Policy()
    policy = policy if policy.base_models else policy.model_copy(update={"base_models": ("demo",)})
    key = load_or_create_key(site / "privacy" / "key.pem")
    return Guard(site, client="a", dataset=dataset, policy=policy, key=key)
