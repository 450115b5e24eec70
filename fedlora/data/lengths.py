"""How long texts are in tokens, how many a limit cuts, what of them is then left to learn; or what is made of images.

No model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fedlora.config import ModelSettings
from fedlora.data.examples import Examples
from fedlora.data.row import Row, labels_in
from fedlora.tasks.base import IGNORED, Item, Processor
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
    shortened: int = 0
    """Texts of which tokens are cut that were to be learnt: their answers end early."""
    unlearnt: int = 0
    """Texts without a token to learn, most of them because all of their answer is cut away."""

    def __str__(self) -> str:
        """For people.

        >>> print(Lengths(1000, 80, 23, 64)), print(Lengths(10, 30, 0, 64))
        the longest has 80 tokens; 23 of 1000 (2 %) are cut at model.max_tokens=64
        the longest has 30 tokens; none is cut at model.max_tokens=64
        (None, None)
        >>> print(Lengths(1000, 80, 30, 64, shortened=20))
        the longest has 80 tokens; 30 of 1000 (3 %) are cut at model.max_tokens=64, 20 (2 %) in what is to be learnt
        """
        share = f"{self.cut} of {self.texts} ({percent(self.cut, self.texts)}) are" if self.cut else "none is"
        learnt = f", {self.shortened} ({percent(self.shortened, self.texts)}) in what is to be learnt"
        said = f"the longest has {self.longest} tokens; {share} cut at model.max_tokens={self.limit}"
        return said + (learnt if self.shortened else "")


@dataclass(frozen=True)
class Sides:
    """Of some images: what the processor makes of each. None is cut."""

    texts: int
    channels: int
    height: int
    width: int
    cut: int = 0
    unlearnt: int = 0

    def __str__(self) -> str:
        """For people.

        >>> print(Sides(1000, 3, 56, 56))
        each is made 56 x 56 pixels in 3 channels, as the model's image processor does
        """
        pixels = f"{self.height} x {self.width} pixels in {self.channels} channels"
        return f"each is made {pixels}, as the model's image processor does"


def extent_of(rows: Sequence[Row], examples: Examples, processor: Processor, *, on: ModelSettings) -> Lengths | Sides:
    """What is said of these rows, from what encoding made of each."""
    if rows and rows[0].form.images:
        channels, height, width = examples.items[0]["pixel_values"].shape
        return Sides(len(rows), channels, height, width)
    return lengths_of(rows, examples, processor, on=on)


SHARES = (50, 90, 95, 99)


def percentiles(lengths: Sequence[int]) -> str:
    """How long most are, for people.

    >>> percentiles([*range(1, 101)]), percentiles([7])
    ('50/90/95/99 % have at most 50/90/95/99 tokens', '50/90/95/99 % have at most 7/7/7/7 tokens')
    """
    ordered = sorted(lengths)
    places = [max(0, math.ceil(share * len(ordered) / 100) - 1) for share in SHARES]
    return f"{'/'.join(map(str, SHARES))} % have at most {'/'.join(str(ordered[place]) for place in places)} tokens"


def said_of_cutting(rows: Sequence[Row], cut: Examples, tokenizer: Processor, *, on: ModelSettings) -> str:
    """How long a site's texts are and how many its run cuts: for the site's own log. No text is read further than one
    token beyond the limit, however long it is, and none makes it fail."""
    lengths = cut.lengths
    reached = [rows[index] for index, length in enumerate(lengths) if length >= on.max_tokens]
    further = cut.task.encode(
        reached, tokenizer, labels_in(reached), longest=on.max_tokens + 1, padding=cut.padding, each=True
    )
    longer = sum(cut.task.length(item) > on.max_tokens for item in further)
    unlearnt = sum(not learnt(item) for item in cut.items)
    return (
        f"{percentiles(lengths)}; {longer} of {len(lengths)} ({percent(longer, len(lengths))}) are cut at "
        f"model.max_tokens={on.max_tokens}; {unlearnt} have nothing to learn"
    )


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def lengths_of(rows: Sequence[Row], cut: Examples, tokenizer: Processor, *, on: ModelSettings) -> Lengths:
    """From what encoding with the limit gave; only rows that reach it are encoded once more, whole."""
    reached = [index for index, length in enumerate(cut.lengths) if length >= on.max_tokens]
    whole = whole_items([rows[index] for index in reached], tokenizer, on.task) if reached else []
    lengths = [cut.task.length(item) for item in whole]
    return Lengths(
        len(rows),
        max([*cut.lengths, *lengths], default=0),
        sum(length > on.max_tokens for length in lengths),
        on.max_tokens,
        shortened=sum(learnt(item) > learnt(cut.items[index]) for index, item in zip(reached, whole, strict=True)),
        unlearnt=sum(not learnt(item) for item in cut.items),
    )


def whole_items(rows: Sequence[Row], tokenizer: Processor, task: str, *, ignore_unusable: bool = False) -> list[Item]:
    """The rows where nothing is cut; SettingsError for one of which nothing can be made, unless those are ignored."""
    kind, labels = task_named(task), labels_in(rows)
    padding = kind.padding(tokenizer)
    return kind.encode(rows, tokenizer, labels, longest=NO_LIMIT, padding=padding, each=ignore_unusable)


def learnt(item: Item) -> int:
    """How many labels of an example have a loss: of the tokens of all its answers, or its one class."""
    return sum(int((item[name] != IGNORED).sum()) for name in item if name.endswith("labels"))
