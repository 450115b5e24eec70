"""The rows of one step of several clients, cut into passes: rows of like lengths, whoever's they are.

A client's own batch is padded to its longest row; here every row is beside rows of its own length, so that less is
padded than by each client alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedlora.tasks.base import Item


@dataclass(frozen=True)
class Row:
    """One example in one client's step."""

    client: int
    item: Item
    length: int
    weight: float
    """Of its loss in the step's gradient."""


def passes(rows: Sequence[Row], *, most: int) -> Iterator[list[Row]]:
    """At most so many rows each, the shortest first, as alike in number as can be."""
    if not rows:
        return
    ordered = sorted(rows, key=lambda row: row.length)
    count = -(-len(ordered) // most)
    for place in range(count):
        yield ordered[place * len(ordered) // count : (place + 1) * len(ordered) // count]
