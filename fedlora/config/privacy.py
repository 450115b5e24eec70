"""What a recipe may ask of the sites' privacy. A site's own policy can only make it stricter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedlora.privacy.mechanism import LEAST_CLIP
from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class ClientLevelSettings(Settings):
    """Client-level differential privacy, added by a trusted coordinator: another unit, with an ε of its own."""

    clip: float = Field(ge=LEAST_CLIP)
    """S: largest L2 norm of one client's whole update."""

    noise_multiplier: float = Field(gt=0)
    """z: noise of standard deviation z · S is added to every round's sum."""

    delta: float = Field(1e-5, gt=0, lt=1)
    """δ of this guarantee; below 1 / (number of clients)."""

    clients: Annotated[int | None, Since(2)] = Field(None, ge=1)
    """How many clients a round asks, at most, whoever is connected: the denominator of every round is one more. Needed
    in a deployment and with the natural partition; otherwise what `rounds` asks of `data.clients` when not given."""

    @model_validator(mode="after")
    def _delta_fits(self) -> ClientLevelSettings:
        if self.clients is not None and self.delta * self.clients >= 1:
            raise ValueError(f"client_level.delta {self.delta} is not below 1 / {self.clients} (clients); lower it.")
        return self


class AdaptSettings(Settings):
    """Noise that shrinks in later rounds where quality on public examples falls short; each round is accounted as it
    was (FedMentor)."""

    below: float = Field(gt=0)
    """Quality on the coordinator's own test set, taken as public, below which the noise shrinks for later rounds: the
    figure that the task is compared by, such as accuracy. Where smaller is better, as with a loss, a round that ends
    above it counts as short."""

    start: float = Field(1.5, ge=1, le=10)
    """σ begins this many times above the calibrated one: what it saves is what later rounds can spend."""

    by: float = Field(0.8, gt=0, lt=1)
    """Factor on σ for every round that ended below."""

    least: float = Field(0.5, gt=0, le=1)
    """Smallest share of the calibrated σ; a site adds more where its ε would not last for the rounds to come."""


class PrivacySettings(Settings):
    """Differential privacy of every site's training, by DP-SGD. Off unless `epsilon` or `noise_multiplier` is given."""

    epsilon: float | None = Field(None, gt=0)
    """Target ε per site over the whole run (add/remove adjacency, one example is the unit); σ is calibrated from it."""

    delta: float = Field(1e-5, gt=0, lt=1)
    """δ of the guarantee; must be below 1 / (number of the site's examples)."""

    noise_multiplier: float | None = Field(None, gt=0, le=1e6)
    """σ, instead of a target ε: noise of standard deviation σ · clip is added to every sum of clipped gradients."""

    spare_rounds: int = Field(0, ge=0)
    """How many trainings a site may begin in vain over the run: one that is cut off after its charge (a kill, a lost
    round that another state or another `rounds.count` replaced) has to be charged again. σ is calibrated for
    rounds.count + spare_rounds, so that such a site is still there in the last rounds."""

    clip: float = Field(1.0, ge=LEAST_CLIP)
    """C: largest L2 norm of one example's gradient over everything that trains."""

    engine: Literal["fedlora", "opacus"] = "fedlora"
    """`fedlora`: per-sample linears, at the cost of a non-private step; `opacus`: Opacus' hooks, for comparison."""

    insecure_seed: int | None = None
    """Tests only: noise and sampling from this seed. Every ledger entry and summary is then marked insecure."""

    report_metrics: bool = False
    """Clients under privacy also report loss and accuracy on their own data. These are not privatised: a named leak."""

    client_level: ClientLevelSettings | None = None
    """Also hide whether a whole client took part, by clipping and noise at the coordinator; accounted separately."""

    adapt: AdaptSettings | None = None
    """Shrink the noise where quality falls short, within `epsilon`; the same noise in every round when not given."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> PrivacySettings:
        if self.adapt is not None and self.epsilon is None:
            raise ValueError("adapt needs a budget to stay within; set privacy.epsilon.")
        return self

    @property
    def enabled(self) -> bool:
        """Whether sites train privately (example-level)."""
        return self.epsilon is not None or self.noise_multiplier is not None
