"""CSV and its kin: every cell is the text between its separators, and a row has as many cells as the header.

The header alone decides how the file is read. Its separator is a tab in `.tsv`; in `.csv` that of comma, semicolon and
tab with which the header has most of the columns that are asked for (then: most columns).

Python's own `csv` says where a record ends, and one that is refused is dropped as far as it was read: lines inside a
well quoted text are never read as rows of their own, however many they are. Only where no quote ends it before the file
does, its first line alone is dropped: there is none in the lines behind it. What `csv` lets pass is looked at again:
`a"b` in a cell without quotes around it.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from fedlora.data.images.cells import NO_IMAGES, ImageColumns
from fedlora.data.tables.table import Cells, Complaint, Table, is_unicode

SEPARATORS = {".tsv": "\t", ".csv": ",;\t"}


def delimited(
    path: Path, columns: Sequence[str], nested: Collection[str] = (), images: ImageColumns = NO_IMAGES
) -> Table:
    """The file's table; ValueError for a header that cannot be used. Cells are texts, whatever is in them."""
    csv.field_size_limit(sys.maxsize)
    separator = separator_of(path, columns)
    with open_text(path) as file:
        lines = Lines(file)
        names = next(csv.reader(lines, delimiter=separator, strict=True))
        absent = tuple(column for column in columns if column not in names)
        rows = [] if absent else list(_rows(lines, separator, names, columns, images))
    return Table(tuple(names), rows, absent)


def open_text(path: Path) -> TextIO:
    """Bytes that are not UTF-8 become half surrogate pairs, which spoil only the cell that they are in."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def separator_of(path: Path, columns: Sequence[str]) -> str:
    """The separator that the header line shows. ValueError where it is no header."""
    headers = {separator: header_of(path, separator) for separator in SEPARATORS[path.suffix.lower()]}
    found = {separator: names for separator, names in headers.items() if names is not None}
    if not found:
        raise ValueError("line 1 is no list of column names: a quote in it is not closed, or in the middle of a name.")
    chosen = max(found, key=lambda separator: (len(set(columns) & set(found[separator])), len(found[separator])))
    require_header(found[chosen])
    return chosen


def header_of(path: Path, separator: str) -> list[str] | None:
    """The column names; None where they cannot be read with this separator."""
    with open_text(path) as file:
        lines = Lines(file)
        try:
            names = next(csv.reader(lines, delimiter=separator, strict=True), None)
        except csv.Error:
            return None
        if not names:
            raise ValueError("it is empty; the first line must name the columns.")
        return None if stray_quote("".join(lines.taken), names) is not None else names


def require_header(names: Sequence[str]) -> None:
    """ValueError for names that are no text, or that two columns have. (Columns without any name are nobody's.)"""
    if not all(map(is_unicode, names)):
        raise ValueError("its column names are not UTF-8; save the file as UTF-8.")
    require_once(names)


def require_once(names: Sequence[str]) -> None:
    """ValueError where two columns have one name."""
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise ValueError(f"{Counter(names)[twice[0]]} of its columns are called {twice[0]!r}; rename all but one.")


class Lines:
    """A file's lines, with those of the present record. Those of one that does not end can be read again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        """The lines of the present record."""
        self.number = 0
        """Of the line that was read last."""
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._file, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.taken.append(line)
        self.number += 1
        return line

    def put_back(self) -> None:
        """All lines of the present record but its first."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        self.ended = False


def _rows(
    lines: Lines, separator: str, names: Sequence[str], columns: Sequence[str], images: ImageColumns
) -> Iterator[Cells | Complaint]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    places = [names.index(column) for column in columns]
    while True:
        lines.taken.clear()
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            if lines.ended:
                lines.put_back()
            yield Complaint(line, NOT_CSV, QUOTES)
            continue
        if len(cells) != len(names):
            if cells:
                yield Complaint(line, TOO_MANY if len(cells) > len(names) else TOO_FEW, RAGGED)
        elif (stray := stray_quote("".join(lines.taken), cells)) is not None:
            yield Complaint(line, f"a quote inside the cell of column {names[stray]!r}", QUOTES)
        else:
            yield images.whole_or_not(line, tuple([cells[place] for place in places]), columns)


NOT_CSV = "a quote that is not closed, or text after one"
QUOTES = 'a cell with a quote in it is written "5"" wide"'
TOO_MANY, TOO_FEW = "more cells than columns", "fewer cells than columns"
RAGGED = "a cell with a separator or a line break in it stands in quotes, and no separator ends a row"


def stray_quote(record: str, cells: Sequence[str]) -> int | None:
    """The number of the first cell with a quote in it and none around it; `record` is what the cells were read from."""
    if '"' not in record:
        return None
    at = 0
    for number, cell in enumerate(cells):
        quotes = cell.count('"')
        if record.startswith('"', at):
            at += len(cell) + quotes + 3  # every quote in it is written twice, two stand around it, a separator follows
        elif quotes:
            return number
        else:
            at += len(cell) + 1
    return None
