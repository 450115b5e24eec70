"""A site: one organisation's data, its folder on its own disk, and its name. Nothing in it is ever sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fedlora.config.compute import OWN, ComputeSettings
from fedlora.data.examples import Examples
from fedlora.models.base import Base
from fedlora.privacy.guard import Guard
from fedlora.privacy.policy import Policy
from fedlora.protocol.task import Task


class Data(Protocol):
    """A site's own data, in the order in which a round may ask for them.

    Guarantee: nothing that a task names, its labels and its tokenizer included, has touched the data before `examples`
    is called, and a round calls that after its charge.
    """

    def require_declared(self, task: Task) -> None:
        """Refuse a task that does not go with what the site has declared of its data. Opens no file."""
        ...

    def require_readable(self, base: Base, task: Task) -> None:
        """SettingsError where this base's processor makes nothing of rows of this site's form. Opens no file."""
        ...

    def ready(self, *, private: bool) -> Rows:
        """What would be trained on, read once, after the site's own checks of its files; Refusal or SettingsError. The
        same for every task."""
        ...


class Rows(Protocol):
    """What was read: checked, counted, charged for and trained on is this and nothing that a file holds later."""

    def __len__(self) -> int: ...

    def examples(self, base: Base, task: Task) -> Parts:
        """As this base model's tokenizer reads them. With privacy no row makes it fail: one that cannot be used stays
        in, and has no loss."""
        ...


@dataclass(frozen=True)
class Parts:
    """A site's examples, tokenised. Of a simulated site they are its data: nobody's, and read before any round."""

    train: Examples
    test: Examples
    """Kept apart from training, to evaluate what is received."""

    def require_declared(self, task: Task) -> None:
        """Simulated sites declare nothing."""

    def require_readable(self, base: Base, task: Task) -> None:
        """They are encoded already."""

    def ready(self, *, private: bool) -> Parts:
        return self

    def __len__(self) -> int:
        return len(self.train)

    def examples(self, base: Base, task: Task) -> Parts:
        return self


@dataclass(frozen=True)
class Site:
    """What a round needs to know of where it runs."""

    name: str
    data: Data
    folder: Path
    """Ledger, error-feedback residual, held base: this site's own state, on its own disk."""
    dataset: str = "default"
    """What the training examples are called in the ledger and the policy: budgets belong to datasets, not to runs."""
    policy: Policy = field(default_factory=Policy)
    """The site's own bounds; the strict defaults unless the site says otherwise."""

    sign: Callable[[bytes], bytes] | None = None
    """Signs updates with the key that the coordinator knows this site by; None where it knows none."""

    compute: ComputeSettings = OWN
    """How this site computes."""

    def guard(self) -> Guard:
        """What stands between a message and the training examples."""
        key = self.folder / "privacy" / "key.pem"
        return Guard(self.folder, client=self.name, dataset=self.dataset, policy=self.policy, key=key)
