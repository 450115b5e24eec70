"""A site: one organisation's data, its folder on its own disk, and its name. Nothing in it is ever sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from client.data import Examples


@dataclass(frozen=True)
class Site:
    """What a round needs to know of where it runs."""

    name: str
    train: Examples
    test: Examples
    """Kept apart from training, to evaluate what is received."""
    folder: Path
    """Ledger, error-feedback residual, held base: this site's own state, on its own disk."""
