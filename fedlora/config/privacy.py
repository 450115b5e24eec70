"""Privacy settings of a recipe. A site's own policy can only make them stricter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedlora.privacy.mechanism import LEAST_CLIP
from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class ClientLevelSettings(Settings):
    """Client-level differential privacy, added by a trusted coordinator: it protects whole clients, with a separate
    ε."""

    clip: float = Field(ge=LEAST_CLIP)
    """S: largest L2 norm of one client's whole update."""

    noise_multiplier: float = Field(gt=0)
    """z: noise of standard deviation z · S is added to every round's sum."""

    delta: float = Field(1e-5, gt=0, lt=1)
    """δ of this guarantee; below 1 / (number of clients)."""

    clients: Annotated[int | None, Since(2)] = Field(None, ge=1)
    """Largest number of clients that a round asks, whoever is connected: the denominator of every round is one more.
    Required in a deployment and with the natural partition; otherwise, if not given, what `rounds` asks of
    `data.clients`."""

    @model_validator(mode="after")
    def _delta_fits(self) -> ClientLevelSettings:
        if self.clients is not None and self.delta * self.clients >= 1:
            raise ValueError(f"client_level.delta {self.delta} is not below 1 / {self.clients} (clients); lower it.")
        return self


class AdaptSettings(Settings):
    """Noise that decreases in later rounds where quality on public examples is too low; each round is accounted with
    the noise that it used (FedMentor)."""

    below: float = Field(gt=0)
    """Quality on the coordinator's own test set (treated as public) below which the noise decreases for later rounds,
    measured by the task's main metric, such as accuracy. If smaller is better, as with a loss, the noise decreases
    after a round that ends above it."""

    start: float = Field(1.5, ge=1, le=10)
    """Factor on the calibrated σ at the start: what this saves can be spent in later rounds."""

    by: float = Field(0.8, gt=0, lt=1)
    """Factor on σ after every round that ended below the target."""

    least: float = Field(0.5, gt=0, le=1)
    """Smallest share of the calibrated σ; a site adds more noise if its ε would not last for the remaining rounds."""


class PrivacySettings(Settings):
    """Differential privacy of every site's training, by DP-SGD. Off unless `epsilon` or `noise_multiplier` is given."""

    epsilon: float | None = Field(None, gt=0)
    """Target ε per site over the whole run (add/remove adjacency, one example is the unit); σ is calibrated from it."""

    delta: float = Field(1e-5, gt=0, lt=1)
    """δ of the guarantee; must be below 1 / (number of the site's examples)."""

    noise_multiplier: float | None = Field(None, gt=0, le=1e6)
    """σ, instead of a target ε: noise of standard deviation σ · clip is added to every sum of clipped gradients."""

    spare_rounds: int = Field(0, ge=0)
    """Number of extra trainings that a site may start in the run: a training that is cut off after its charge (a killed
    process, a round that was lost and is repeated with another state) must be charged again. σ is calibrated for
    rounds.count + spare_rounds, so that such a site can still take part in the last rounds."""

    clip: float = Field(1.0, ge=LEAST_CLIP)
    """C: largest L2 norm of one example's gradient over all trained parameters."""

    engine: Literal["fedlora", "opacus"] = "fedlora"
    """`fedlora`: own per-sample gradients of linear layers, at the cost of a non-private step; `opacus`: Opacus' hooks,
    for comparison."""

    insecure_seed: int | None = None
    """For tests only: noise and sampling from this seed. Every ledger entry and summary is then marked insecure."""

    report_metrics: bool = False
    """Private clients also report loss and metrics on their own data, without noise: this reveals information about the
    data."""

    client_level: ClientLevelSettings | None = None
    """Also hide whether a whole client took part, by clipping and noise at the coordinator; accounted separately."""

    adapt: AdaptSettings | None = None
    """Decrease the noise where quality is too low, within `epsilon`; constant noise if not given."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> PrivacySettings:
        if self.adapt is not None and self.epsilon is None:
            raise ValueError("privacy.adapt needs a budget; set privacy.epsilon.")
        return self

    @property
    def enabled(self) -> bool:
        """Whether sites train privately (example-level)."""
        return self.epsilon is not None or self.noise_multiplier is not None
