"""Repeated rows: those with one key (a text; where rows have no class, the whole row) are a group.

    all of its rows have the same class, or none has any     one example
    they have several                                        none: nobody can say which row is the wrong one

A text on both sides of a split would be training on the test; keeping the *first* of a group would let one row, put in
front, replace another.

Guarantee (1-stable): one row more or less changes one group, and a group is one example or none. The unit that privacy
protects is therefore the text where rows repeat: of two people with the very same text, one by itself changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlora.data.row import Row


@dataclass(frozen=True)
class Counts:
    """What became of the rows that were read: read = kept + repeated + conflicting + all that is unusable."""

    read: int
    kept: int
    repeated: int = 0
    """Further rows of a kept text."""
    conflicting: int = 0
    """Rows whose text comes with several classes: none of them is used."""
    unusable: tuple[tuple[str, int], ...] = ()
    """Rows left out by themselves, by the reason."""

    @property
    def unusable_share(self) -> float:
        """Unusable rows of those that were read; 0 of nothing."""
        return sum(count for _, count in self.unusable) / self.read if self.read else 0.0

    def __str__(self) -> str:
        """For people.

        >>> print(Counts(12, 8, 1, 2, (("nothing in column 'text'", 1),)))
        8 of 12 rows; left out: 1 repeated, 2 that come with several classes, 1 with nothing in column 'text'
        """
        left = [(self.repeated, "repeated"), (self.conflicting, "that come with several classes")]
        left += [(count, f"with {why}") for why, count in self.unusable]
        said = ", ".join(f"{count} {why}" for count, why in left if count)
        return f"{self.kept} of {self.read} rows" + (f"; left out: {said}" if said else "")


def one_per_text(rows: Iterable[Row], *, by_client: bool = False) -> tuple[list[Row], int, int]:
    """One row of every text whose rows agree, in order of first appearance; rows repeated; rows in conflict.

    `by_client`: groups are the same text at the same client, so that no client's rows depend on another's.

    >>> from fedlora.data.row import text_row
    >>> a, b, c = text_row("hi", "x"), text_row("ho", "x"), text_row("ho", "y")
    >>> one_per_text([a, a, b, c]) == ([a], 1, 2)
    True
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.key, row.client if by_client else ""), []).append(row)
    agreed = [group for group in groups.values() if len({row.label for row in group}) == 1]
    conflicting = sum(map(len, groups.values())) - sum(map(len, agreed))
    return [group[0] for group in agreed], sum(map(len, agreed)) - len(agreed), conflicting
