"""A task that a site has admitted, and what training makes of it: what passes between the three steps of a round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from client.site import Parts, Site
from client.state.base_cache import CachedBase
from fedlora.models.loaded_model import LoadedModel
from fedlora.privacy.guard import Grant, Guard
from fedlora.protocol.task import Evaluation, Task
from fedlora.updates import Adapter


@dataclass(frozen=True)
class Start:
    """What the model is to serve when training begins."""

    received: Adapter
    """What the coordinator sent: the answer is the difference from it."""
    own: Adapter
    """The same with what this site keeps of its own."""
    base: CachedBase
    """What has been added to the base model's frozen weights."""
    name: bytes
    """`state_hash` of what was received."""


@dataclass(frozen=True)
class Work:
    """A task that is charged, with the examples that it may see. Nothing of it is trained yet."""

    task: Task
    """As it came: it names the answer."""
    placed: Task
    """The same as this site computes it: to work on."""
    site: Site
    guard: Guard
    grant: Grant
    home: LoadedModel
    start: Start
    parts: Parts

    @property
    def tells(self) -> bool:
        """Whether figures about the data leave: without privacy, or where recipe and policy both say so."""
        return self.grant.mechanism is None or self.task.privacy.report_metrics

    @property
    def weighs_tokens(self) -> bool:
        """Whether the number of learnt tokens is told: without privacy, where the task weighs by it."""
        return self.grant.mechanism is None and self.task.weigh_by == "tokens"


@dataclass(frozen=True)
class Steps:
    """What a round's steps leave besides the parameters."""

    loss: float | None
    """Mean loss per example of the steps that were taken, in nats; with privacy it is not private itself, and None
    where no example was drawn, or one has a loss that is not finite."""
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    """The optimiser's state (`client.steps.optimizer`), where it is kept: a function of gradients as they were used,
    noise included."""
    skipped: int = 0
    """Steps whose loss or gradient was not finite. Without privacy: with it, such an example counts as zero."""


class NotFiniteError(Exception):
    """No local step could be taken."""


@dataclass(frozen=True)
class Trained:
    """What came of the local steps."""

    adapter: Adapter
    steps: Steps
    received: Evaluation | None
    """The received adapter on the site's own test examples; None where no figure leaves, or there is none."""
