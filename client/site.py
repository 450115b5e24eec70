"""A site: one organisation's data, its folder on its own disk, and its name. Nothing in it is ever sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fedlora.examples import Examples
from fedlora.privacy.guard import Guard
from fedlora.privacy.policy import Policy
from fedlora.privacy.signing import load_or_create_key


@dataclass(frozen=True)
class Site:
    """What a round needs to know of where it runs."""

    name: str
    train: Examples
    test: Examples
    """Kept apart from training, to evaluate what is received."""
    folder: Path
    """Ledger, error-feedback residual, held base: this site's own state, on its own disk."""
    dataset: str = "default"
    """What the training examples are called in the ledger and the policy: budgets belong to datasets, not to runs."""
    policy: Policy = field(default_factory=Policy)
    """The site's own bounds; the strict defaults unless the site says otherwise."""

    sign: Callable[[bytes], bytes] | None = None
    """Signs updates with the key that the coordinator knows this site by; None where it knows none."""

    def guard(self) -> Guard:
        """What stands between a message and the training examples."""
        key = load_or_create_key(self.folder / "privacy" / "key.pem")
        return Guard(self.folder, client=self.name, dataset=self.dataset, policy=self.policy, key=key)
