"""Entities as stretches of characters, to words with tags: [{"start": 10, "end": 18, "label": "PLACE"}].

A word is letters and digits that stand together, or one other mark that is no blank; the edge of a stretch ends a word
as well, so that every stretch is of whole words. Characters count from 0, `end` is the one behind the last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

WORD = re.compile(r"\w+|[^\w\s]")

Span = tuple[int, int, str]


def words_with_tags(text: str, cell: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The text's words and the tag of each; ValueError, without content, for what are no stretches of it.

    >>> words_with_tags("to San Diego-CA.", '[{"start": 3, "end": 12, "label": "PLACE"}]')
    (('to', 'San', 'Diego', '-', 'CA', '.'), ('O', 'B-PLACE', 'I-PLACE', 'O', 'O', 'O'))
    """
    spans = spans_in(cell, length=len(text))
    edges = sorted({0, len(text), *(edge for start, end, _ in spans for edge in (start, end))})
    label_at = {start: label for start, _, label in spans}
    words, tags = list[str](), list[str]()
    for start, end in pairwise(edges):
        own = words_in(text[start:end])
        label = label_at.get(start)
        if label is not None and not own:
            raise ValueError("a stretch holds no word")
        words += own
        tags += ["O"] * len(own) if label is None else [f"B-{label}", *[f"I-{label}"] * (len(own) - 1)]
    return tuple(words), tuple(tags)


def words_in(text: str) -> list[str]:
    """Its words, where nobody has said what stands there."""
    return WORD.findall(text)


def spans_in(cell: str, *, length: int) -> list[Span]:
    """In their order, none over another; ValueError, without content, for anything else."""
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise ValueError("its spans are no list of stretches")  # noqa: TRY004 - of what a file holds
    spans = sorted(map(span_of, found))
    if any(not 0 <= start < end <= length for start, end, _ in spans):
        raise ValueError("a stretch does not lie within the text")
    if any(one[1] > other[0] for one, other in pairwise(spans)):
        raise ValueError("two stretches lie over each other")
    return spans


def span_of(found: object) -> Span:
    if isinstance(found, dict):
        start, end, label = (found.get(name) for name in ("start", "end", "label"))
        if type(start) is int and type(end) is int and isinstance(label, str) and label.strip():
            return start, end, label
    raise ValueError("a stretch is an object of start, end and label")


def named(cell: str, names: Sequence[str]) -> str:
    """A cell of numbers as one of names, number 0 being the first; any other cell as it is.

    >>> named("[0, 1, 0]", ["O", "B-PLACE"]), named("[0, 7]", ["O", "B-PLACE"]), named('["O"]', ["O", "B-PLACE"])
    ('["O", "B-PLACE", "O"]', '[0, 7]', '["O"]')
    """
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    numbered = isinstance(found, list) and all(type(one) is int and 0 <= one < len(names) for one in found)
    return json.dumps([names[one] for one in found], ensure_ascii=False) if numbered else cell
