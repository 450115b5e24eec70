"""Texts and numbers from sites, limited to what every database can store: no NaN, no huge integer, no text that is too
long."""

from __future__ import annotations

import math

LONGEST = 200
"""Longest name or code that is stored: both come from sites."""

LARGEST = 2**63 - 1
"""The largest integer that databases store; a site may send a larger one."""


def plain(text: str) -> str:
    """A site's name or code without characters that some database refuses.

    >>> plain("a\\0b" + chr(0xD800))
    'ab?'
    """
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:LONGEST]


def finite(value: float | None) -> float | None:
    """None for NaN: databases and JSON treat it differently."""
    return value if value is not None and math.isfinite(value) else None


def whole(value: int) -> int:
    """An integer limited to what a column can store."""
    return max(0, min(value, LARGEST))
