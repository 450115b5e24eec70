"""What an attack is: who tries what, what it gained in 0.1.0, and how much it gains now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gain:
    """What an attack got."""

    said: str
    held: bool
    """Whether the claim of docs/privacy.md stands against it."""


@dataclass(frozen=True)
class Attack:
    """One row of the table."""

    name: str
    what: str
    """Who does what, in a sentence or two."""
    before: str
    """Measured on 0.1.0."""
    tests: tuple[str, ...]
    """The short form, for every change: files, or tests in them."""
    run: Callable[[Path], Gain]
    """Tries it, in an empty folder."""
