"""Invented tickets of four shops; a real source reads a database, or the files that its package brings."""

from __future__ import annotations

import random
from collections.abc import Iterator

from fedlora.data.form import TEXT_AND_LABEL
from fedlora.data.packaged import Packaged
from fedlora.data.row import Row, text_row

WORDS = {"good": ("great", "thanks", "love"), "bad": ("late", "lost", "rude")}
PLAIN = ("flight", "the", "my", "bag", "crew", "seat")


def rows() -> Iterator[Row]:
    """The same in every call: a run that goes on must find what it began with."""
    draw = random.Random(0)
    for shop in ("east", "north", "south", "west"):
        for _ in range(60):
            label = draw.choice(tuple(WORDS))
            words = [*draw.choices(PLAIN, k=6), draw.choice(WORDS[label])]
            yield text_row(" ".join(draw.sample(words, k=7)), label, shop)


TICKETS = Packaged(TEXT_AND_LABEL, rows)
