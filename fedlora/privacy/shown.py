"""ε as text, rounded up: never less than it is."""

from __future__ import annotations

import math


def at_most(epsilon: float) -> str:
    """Three figures behind the point, rounded up.

    >>> at_most(2.9991), at_most(3.0), at_most(math.inf)
    ('3.000', '3.000', '∞')
    """
    if math.isinf(epsilon):
        return "∞"
    return f"{math.ceil(epsilon * 1000 - 1e-9) / 1000:.3f}"
