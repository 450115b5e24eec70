"""The recipe: all sections together. `strategies/compatibility` checks which settings may be combined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, field_validator

from fedlora.config.adapter import AdapterSettings
from fedlora.config.clients.attack import AttackSettings
from fedlora.config.clients.devices import DeviceSettings
from fedlora.config.clients.quotas import QuotaSettings
from fedlora.config.clients.robust import RobustSettings
from fedlora.config.data import DataSettings
from fedlora.config.gate import GateSettings
from fedlora.config.model import ModelSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.rounds import RoundSettings
from fedlora.config.train import TrainSettings
from fedlora.config.wire import WireSettings
from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class StrategySettings(Settings):
    """The aggregation strategy and its settings (`fedlora strategies` lists both)."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "fedsvd"
    """fedit (or fedavg, which is the same), ffa, fedsvd, fedex, fair, fedsb, ..., or a plug-in's."""

    @field_validator("name")
    @classmethod
    def _plain_averaging(cls, name: str) -> str:
        return "fedit" if name.lower() == "fedavg" else name  # of A and of B: what FedIT is

    @property
    def weighs_tokens(self) -> bool:
        """Whether a client counts by its learnt tokens."""
        return self.options.get("weighting") == "tokens"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Recipe(Settings):
    """One run."""

    name: str = "run"
    """A name for tables and pictures."""

    mode: Literal["federated", "alone", "pooled"] = "federated"
    """`federated`: clients train together. References for comparison: `alone`, every client on its own; `pooled`, one
    client with all data."""

    seed: int = 0
    """Seed of everything except privacy noise: the same seed and machine give the same result."""

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
    gate: Annotated[GateSettings, Since(2)] = GateSettings()
    attack: AttackSettings | None = None
    """Simulations only: attacking clients, to test what `robust` does against them. A deployment refuses this."""

    devices: Mapping[str, DeviceSettings] = {}
    """Clients that train less than the whole adapter, by name; `others` stands for every client not named."""

    @property
    def most_charges(self) -> int:
        """The largest number of charges of a site in the run, for which σ is calibrated."""
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


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, with which an editor completes, explains and underlines.

    What it refuses `fedlora config check` refuses as well; a combination of settings is for the check alone.
    """
    schema = {**Recipe.model_json_schema(), "title": "A recipe of fedlora"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
