"""A row: one example as its source has it, and whose it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from fedlora.data.entities.spans import words_in, words_with_tags
from fedlora.data.form import TEXT_AND_LABEL, TEXT_AND_SPANS, Form

Cell = str | bytes
"""A text, or the bytes of an image's file."""


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a form's columns, and the organisation that they belong to ("" where nobody asked)."""

    form: Form
    cells: tuple[Cell, ...]
    client: str = ""

    def __getitem__(self, column: str) -> str:
        """The cell of one of the form's columns, of an image its `fingerprint`; ValueError for another column."""
        cell = self.cells[self.form.columns.index(column)]
        return cell if isinstance(cell, str) else fingerprint(cell)

    def image(self, column: str) -> bytes:
        """The bytes of an image's file; TypeError for a column of texts."""
        cell = self.cells[self.form.columns.index(column)]
        if isinstance(cell, str):
            raise TypeError(f"column {column!r} holds texts.")
        return cell

    @property
    def key(self) -> str:
        """What the example is known by: the rows that share it are one."""
        if self.form.key is not None:
            return self[self.form.key]
        texts = [self[column] for column in self.form.columns]
        return texts[0] if len(texts) == 1 else json.dumps(texts)

    @property
    def text(self) -> str:
        """What a model reads of it: its cells without the class."""
        return "".join(self[column] for column in self.form.columns if column != self.form.label)

    @property
    def label(self) -> str | None:
        """Its class, or those of its words as one text; None where rows have none."""
        return None if self.form.label is None else self[self.form.label]

    @property
    def classes(self) -> tuple[str, ...]:
        """What a head has outputs for, of all that it names: its class, or each word's; none of a cell that is no list
        of them."""
        if self.label is None:
            return ()
        if not self.form.of_words:
            return (self.label,)
        try:
            return self.words_and_tags()[1]
        except ValueError:
            return ()

    def words(self) -> tuple[str, ...]:
        """Of a row of words, or of a text as `fedlora.data.entities.spans` cuts it; ValueError where there are none."""
        found = tuple(words_in(self["text"])) if "text" in self.form.columns else listed(self["tokens"])
        if not found:
            raise ValueError("its tokens are no list of words")
        return found

    def words_and_tags(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """As many of the ones as of the others; ValueError, without content, where a row has other cells."""
        if self.form.name == TEXT_AND_SPANS.name:
            return words_with_tags(self["text"], self["spans"])
        words, tags = listed(self["tokens"]), listed(self["tags"])
        if words is None or tags is None:
            raise ValueError("its tokens and tags are no lists of texts")
        if len(words) != len(tags):
            raise ValueError(f"{len(words)} tokens have {len(tags)} tags")
        return words, tags


def fingerprint(content: bytes) -> str:
    """What an image is known by: equal for equal files, whatever they are called."""
    return hashlib.sha256(content).hexdigest()


def text_row(text: str, label: str, client: str = "") -> Row:
    """A text with its class."""
    return Row(TEXT_AND_LABEL, (text, label), client)


def labels_in(rows: Iterable[Row]) -> tuple[str, ...]:
    """The classes of these rows, sorted; none where rows have no classes."""
    return tuple(sorted({name for row in rows for name in row.classes}))


def listed(cell: str) -> tuple[str, ...] | None:
    """The texts of a cell that is a list of JSON; None for any other. A number stands for its digits.

    >>> listed('["at", 7]'), listed('"at"'), listed('[["at"]]')
    (('at', '7'), None, None)
    """
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(type(one) in (str, int) for one in found):
        return None
    return tuple(map(str, found))
