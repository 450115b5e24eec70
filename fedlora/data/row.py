"""A row: one message, its class, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One message: its text, its class, and the organisation that it belongs to ("" where nobody asked)."""

    text: str
    label: str
    client: str
