"""Why clients are trained one by one after all."""

from __future__ import annotations


class UntrainedError(Exception):
    """A group cannot be trained as one, and nothing of it has been: what it says ends `... are trained one by one:`."""
