"""What a file of rows gave: the cells that were asked for, row by row, and a complaint for every row without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Cells = tuple[str | bytes, ...]
"""The text of the columns that were asked for, none of them blank; of an image the bytes of its file."""


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with a row; neither text names content."""

    line: int
    """Of the file, from 1, where its row begins; in Parquet, which has no lines, the number of the row."""
    what: str
    remedy: str = ""
    malformed: bool = True
    """False for an empty cell: the row is well written, and there is nothing to use."""


@dataclass(frozen=True)
class Table:
    """A file's columns and its rows, in order."""

    names: tuple[str, ...]
    """Its columns; of JSON, what its rows name."""
    rows: Sequence[Cells | Complaint]
    """Empty where the header lacks a column that was asked for."""
    absent: tuple[str, ...] = ()
    """Columns that were asked for and are not among the names."""
    mixed: tuple[Complaint, ...] = ()
    """Columns with values of several types, where the second begins: each is read by itself all the same."""
    has_header: bool = True
    """False for JSON, where every row is held against itself."""


def whole_or_not(line: int, cells: Cells, columns: Sequence[str]) -> Cells | Complaint:
    """The row's cells, or what is wrong with the first of them that cannot be used."""
    for cell, column in zip(cells, columns, strict=True):
        if not cell or cell.isspace():
            return Complaint(line, f"nothing in column {column!r}", malformed=False)
        if isinstance(cell, str) and not is_unicode(cell):
            return Complaint(line, f"not UTF-8 in column {column!r}")
    return cells


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: half a surrogate pair, or a byte of another encoding, cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False
