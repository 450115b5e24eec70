"""What sites say, as every database can hold it: no number that is none, nothing too large, no character too many."""

from __future__ import annotations

import math

LONGEST = 200
"""Characters of a name or a code: both come from sites."""

LARGEST = 2**63 - 1
"""What a database's integer holds; a site may say anything."""


def plain(text: str) -> str:
    """What a site calls something, as every database can hold it.

    >>> plain("a\\0b" + chr(0xD800))
    'ab?'
    """
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:LONGEST]


def finite(value: float | None) -> float | None:
    """None for a number that is none: databases and JSON disagree about them."""
    return value if value is not None and math.isfinite(value) else None


def whole(value: int) -> int:
    """Cut to what a column holds."""
    return max(0, min(value, LARGEST))
