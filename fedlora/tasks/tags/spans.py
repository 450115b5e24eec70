"""Entities in a row of tags, and how many of them are right, as CoNLL's conlleval counts (Tjong Kim Sang, 2002).

An entity is its type and where it begins and ends; one that is found is right where all three are. A continuing tag
that continues nothing, or an entity of another type, begins one: so that what the older scheme IOB1 writes is read too.

    precision = right / found        recall = right / there        F1 = 2 right / (found + there)

Guarantee: counts of parts add up to those of the whole, whoever holds which part, and so do the numerator and the
denominator of each figure. Means of parts' F1 do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedlora.tasks.base import Mean
from fedlora.tasks.tags.scheme import OUTSIDE

Span = tuple[int, int, int]
"""Number of the type, first word, and the word behind the last."""


@dataclass(frozen=True)
class Counts:
    """Entities of one type, or of all.

    >>> Counts(3, 4, 5) + Counts(0, 1, 0)
    Counts(right=3, found=5, there=5)
    """

    right: int = 0
    found: int = 0
    there: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.found + other.found, self.there + other.there)

    @property
    def precision(self) -> Mean:
        """Of what is found; 0 where nothing is."""
        return Mean(self.right, self.found, of_nothing=0.0)

    @property
    def recall(self) -> Mean:
        """Of what is there; 0 where nothing is."""
        return Mean(self.right, self.there, of_nothing=0.0)

    @property
    def f1(self) -> Mean:
        """Their harmonic mean; 0 where nothing is found and nothing is there."""
        return Mean(2 * self.right, self.found + self.there, of_nothing=0.0)


def counted(found: Sequence[Sequence[int]], there: Sequence[Sequence[int]]) -> dict[int, Counts]:
    """By type, of sentences: the codes (`scheme`) that a model gives to their words, and those that they have."""
    counts: dict[int, Counts] = {}
    for ours, theirs in zip(found, there, strict=True):
        mine, own = set(spans(ours)), set(spans(theirs))
        for kind, one in [
            *((span[0], Counts(right=1)) for span in mine & own),
            *((span[0], Counts(found=1)) for span in mine),
            *((span[0], Counts(there=1)) for span in own),
        ]:
            counts[kind] = counts.get(kind, Counts()) + one
    return counts


def spans(codes: Sequence[int]) -> Iterator[Span]:
    """The entities in one sentence, in order.

    >>> list(spans([1, 2, 0, 1, 1, 4]))  # B-0 I-0 O B-0 B-0 I-1
    [(0, 0, 2), (0, 3, 4), (0, 4, 5), (1, 5, 6)]
    """
    first, before = 0, OUTSIDE
    for place, code in enumerate([*codes, OUTSIDE]):
        continues = code != OUTSIDE and code % 2 == 0 and before != OUTSIDE and kind_of(code) == kind_of(before)
        if continues:
            continue
        if before != OUTSIDE:
            yield kind_of(before), first, place
        first, before = place, code


def kind_of(code: int) -> int:
    """The type's number of a code that is not outside."""
    return (code - 1) // 2
