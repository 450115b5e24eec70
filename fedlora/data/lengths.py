"""How long texts are in tokens, and how many of them a limit cuts; or what is made of images. No model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlora.config import ModelSettings
from fedlora.data.row import Row, labels_in
from fedlora.tasks.base import Item, Processor
from fedlora.tasks.registry import task_named

NO_LIMIT = 2**20
"""Tokens; no text is as long."""


@dataclass(frozen=True)
class Lengths:
    """Of some texts, in tokens with those that the tokenizer puts around them."""

    texts: int
    longest: int
    cut: int
    """Texts that are longer than the limit."""
    limit: int

    def __str__(self) -> str:
        """For people.

        >>> print(Lengths(1000, 80, 23, 64)), print(Lengths(10, 30, 0, 64))
        the longest has 80 tokens; 23 of 1000 (2 %) are cut at model.max_tokens=64
        the longest has 30 tokens; none is cut at model.max_tokens=64
        (None, None)
        """
        share = f"{self.cut} of {self.texts} ({percent(self.cut, self.texts)}) are" if self.cut else "none is"
        return f"the longest has {self.longest} tokens; {share} cut at model.max_tokens={self.limit}"


@dataclass(frozen=True)
class Sides:
    """Of some images: what the processor makes of each. None is cut."""

    texts: int
    channels: int
    height: int
    width: int
    cut: int = 0

    def __str__(self) -> str:
        """For people.

        >>> print(Sides(1000, 3, 56, 56))
        each is made 56 x 56 pixels in 3 channels, as the model's image processor does
        """
        pixels = f"{self.height} x {self.width} pixels in {self.channels} channels"
        return f"each is made {pixels}, as the model's image processor does"


def extent_of(
    rows: Sequence[Row], items: Sequence[Item], processor: Processor, *, on: ModelSettings
) -> Lengths | Sides:
    """What is said of these rows, from what encoding made of each."""
    if rows and rows[0].form.images:
        channels, height, width = items[0]["pixel_values"].shape
        return Sides(len(rows), channels, height, width)
    return lengths_of(rows, [task_named(on.task).length(item) for item in items], processor, on=on)


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def lengths_of(rows: Sequence[Row], cut_lengths: Sequence[int], tokenizer: Processor, *, on: ModelSettings) -> Lengths:
    """From what encoding with the limit gave; only rows that reach it are encoded once more, whole."""
    reached = [row for row, length in zip(rows, cut_lengths, strict=True) if length >= on.max_tokens]
    whole = whole_lengths(reached, tokenizer, on.task) if reached else []
    longest = max([*cut_lengths, *whole], default=0)
    return Lengths(len(rows), longest, sum(length > on.max_tokens for length in whole), on.max_tokens)


def whole_lengths(rows: Sequence[Row], tokenizer: Processor, task: str) -> list[int]:
    """What each row has where nothing is cut."""
    kind, labels = task_named(task), labels_in(rows)
    items = kind.encode(rows, tokenizer, labels, longest=NO_LIMIT, padding=kind.padding(tokenizer), each=False)
    return [kind.length(item) for item in items]
