"""The recipe: every section together, and what sections cannot have together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, field_validator, model_validator

from fedlora.config.adapter import AdapterSettings
from fedlora.config.attack import AttackSettings
from fedlora.config.data import DataSettings
from fedlora.config.devices import DeviceSettings
from fedlora.config.model import ModelSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.quotas import QuotaSettings
from fedlora.config.robust import RobustSettings
from fedlora.config.rounds import RoundSettings
from fedlora.config.train import TrainSettings
from fedlora.config.wire import WireSettings
from fedlora.settings import Settings


class StrategySettings(Settings):
    """Which aggregation, and its own settings (`fedlora strategies` lists both)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "fedsvd"
    """fedit (or fedavg, which is the same), ffa, fedsvd, fedex, fair, fedsb, ..."""

    @field_validator("name")
    @classmethod
    def _plain_averaging(cls, name: str) -> str:
        return "fedit" if name.lower() == "fedavg" else name  # of A and of B: what FedIT is

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Recipe(Settings):
    """One run."""

    name: str = "run"
    """A name for tables and pictures."""

    mode: Literal["federated", "alone", "pooled"] = "federated"
    """`alone`: every client by itself; `pooled`: one client that holds everyone's data; both are references."""

    seed: int = 0
    """Seed of everything but privacy noise: same seed and machine, same result."""

    model: ModelSettings = ModelSettings()
    adapter: AdapterSettings = AdapterSettings()
    data: DataSettings = DataSettings()
    strategy: StrategySettings = StrategySettings()
    train: TrainSettings = TrainSettings()
    rounds: RoundSettings = RoundSettings()
    privacy: PrivacySettings = PrivacySettings()
    wire: WireSettings = WireSettings()
    robust: RobustSettings = RobustSettings()
    quotas: QuotaSettings = QuotaSettings()
    attack: AttackSettings | None = None
    """Simulations only: clients that lie, to see what `robust` does about it. A deployment refuses it."""

    devices: Mapping[str, DeviceSettings] = {}
    """Clients that carry less than the whole adapter, by name; `others` stands for every client that is not named."""

    @property
    def most_charges(self) -> int:
        """How often a site can be charged in the run: what σ is calibrated for."""
        return self.rounds.count + self.privacy.spare_rounds

    @property
    def expected_clients(self) -> int | None:
        """Under client-level privacy how many clients a round asks at most; the recipe alone fixes it. None without."""
        asked = self.privacy.client_level
        if asked is None or asked.clients is not None:
            return None if asked is None else asked.clients
        if self.mode != "federated":
            return 1
        known = self.data.clients if self.data.partition != "natural" else None
        return None if known is None else self.rounds.asked(known)

    def asks(self, connected: int) -> int:
        """How many of the connected clients a round asks; under client-level privacy never more than are expected."""
        asked, expected = self.rounds.asked(connected), self.expected_clients
        return asked if expected is None else min(asked, expected)

    @model_validator(mode="after")
    def _pieces_fit(self) -> Recipe:
        if self.data.partition != "natural" and self.data.clients is None:
            raise ValueError(
                f"data.clients is missing; the {self.data.partition} partition needs the number of clients."
            )
        if self.data.max_examples is not None and self.privacy.enabled:
            raise ValueError(
                "data.max_examples and example-level privacy exclude each other: one example more pushes another out, "
                "and the noise covers one change, not two. Use data.train_fraction, which decides for each by itself."
            )
        first = self.adapter.first_step
        if self.adapter.init == "client-gradients" and first is not None:
            if self.privacy.enabled != (first.epsilon is not None):
                raise ValueError(
                    "adapter.first_step.epsilon and privacy go together: a first step in clear would give away what "
                    "the rounds after it hide, and the reverse; give both a budget, or neither."
                )
            if self.privacy.client_level is not None:
                raise ValueError(
                    "init: client-gradients sends whole gradients, which privacy.client_level does not clip; take "
                    "init: gradient with public data, or another init."
                )
        return self

    @model_validator(mode="after")
    def _private_steps_do_not_drop(self) -> Recipe:
        if self.privacy.enabled and self.adapter.dropout > 0:
            raise ValueError(
                f"adapter.dropout={self.adapter.dropout} and privacy exclude each other: a dropout mask ties every "
                "example's gradient to who else was drawn, so that one example would move the sum by more than "
                "privacy.clip. Remove adapter.dropout; the base model's own dropout is off in private steps."
            )
        return self

    @model_validator(mode="after")
    def _robust_fits(self) -> Recipe:
        """What a robust round cannot be together with; what depends on the strategy is `strategies/fit.py`'s."""
        if not self.robust.enabled:
            return self
        if self.privacy.client_level is not None:
            raise ValueError(
                "robust and privacy.client_level exclude each other: the noise covers what one clipped update can move "
                "a sum by, and a rule that looks at all updates has no such bound. Remove one of them."
            )
        if self.devices:
            raise ValueError(
                "robust compares whole updates, and clients of unequal rank or depth send unequal ones: every small "
                "device would look like an outlier. Remove `devices`, or robust.norm_bound and robust.rule."
            )
        if self.mode != "federated" and self.robust.rule != "mean":
            raise ValueError(f"robust.rule={self.robust.rule} compares clients, mode={self.mode} has one; remove it.")
        clients = None if self.data.partition == "natural" else self.data.clients
        if clients is not None and self.rounds.asked(clients) < self.robust.least_updates:
            raise ValueError(f"{self.robust.precondition}, a round asks {self.rounds.asked(clients)} clients.")
        return self

    @model_validator(mode="after")
    def _denominator_is_known(self) -> Recipe:
        """Client-level noise is relative to a number of clients that must not follow who is connected."""
        if self.privacy.client_level is not None and self.expected_clients is None:
            raise ValueError(
                "privacy.client_level needs a denominator that does not depend on who is connected; set "
                "privacy.client_level.clients to the number of clients that a round is to ask."
            )
        return self
