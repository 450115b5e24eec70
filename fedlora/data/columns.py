"""What a source's columns look like, before anybody has named them. Read by the readers of `fedlora.data.tables`.

One column at a time: an empty cell, or a date, in one column must not hide what another holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.data.classes import MOST_CLASSES
from fedlora.data.rows import files_of
from fedlora.data.tables.reading import read_table
from fedlora.data.tables.table import Complaint
from fedlora.settings import SettingsError

ROWS_A_CLASS = 5
"""A column with fewer rows for each of its values is not taken for one of classes."""
CLASS_CHARS = 60
TEXT_WORDS, TEXT_CHARS = 2.0, 8.0
"""On average; scripts that write no blanks have longer words instead."""
MANY_DIFFERENT = 0.9


@dataclass(frozen=True)
class Column:
    """A column of a source, over all of its files."""

    name: str
    cells: int = 0
    """Rows with something in it."""
    empty: int = 0
    distinct: int = 0
    chars: float = 0.0
    """Mean length of a cell."""
    words: float = 0.0
    letters: float = 0.0
    """Share of letters among all characters that are not blank."""
    fewest: int = 0
    """Rows of the rarest value."""
    ascii: bool = True
    trouble: str | None = None
    """Why it cannot be read as text."""

    @property
    def is_text(self) -> bool:
        long = self.words >= TEXT_WORDS or (not self.ascii and self.chars >= TEXT_CHARS)
        return self.readable and self.distinct > self.cells / 2 and self.letters > 0.5 and long

    @property
    def is_classes(self) -> bool:
        few = 2 <= self.distinct <= min(MOST_CLASSES, self.cells / ROWS_A_CLASS)
        return self.readable and few and self.chars <= CLASS_CHARS

    @property
    def readable(self) -> bool:
        return self.trouble is None and self.cells > 0

    @property
    def looks_like(self) -> str:
        """In a word or three, for a table."""
        if self.trouble is not None:
            return "not readable"
        if not self.cells:
            return "empty"
        if self.distinct == 1:
            return "one value"
        if self.is_text:
            return "text"
        if self.is_classes:
            return "classes"
        return "identifiers" if self.distinct > MANY_DIFFERENT * self.cells else "many values"


def columns_in(source: str) -> tuple[Column, ...]:
    """Every named column that all files of the source have; SettingsError where a file cannot be read at all."""
    paths = files_of(source)
    named = [read_table(path, []).names for path in paths]
    shared = [name for name in named[0] if name.strip() and all(name in names for names in named)]
    return tuple(look(name, paths) for name in shared)


def look(name: str, paths: Sequence[Path]) -> Column:
    """One column of these files."""
    values: Counter[str] = Counter()
    empty, why = 0, None
    try:
        for path in paths:
            for row in read_table(path, [name]).rows:
                if not isinstance(row, Complaint):
                    values[str(row[0])] += 1
                elif row.malformed:
                    why = why or row.what
                else:
                    empty += 1
    except SettingsError as error:
        return Column(name, trouble=str(error))
    if not values:
        return Column(name, empty=empty, trouble=why)
    return measured(name, values, empty=empty)


def measured(name: str, values: Counter[str], *, empty: int = 0) -> Column:
    """The column that holds these values so many times."""
    cells = values.total()
    marks = [("".join(value.split()), count) for value, count in values.items()]
    return Column(
        name,
        cells,
        empty,
        len(values),
        chars=sum(len(value) * count for value, count in values.items()) / cells,
        words=sum(len(value.split()) * count for value, count in values.items()) / cells,
        letters=sum(sum(map(str.isalpha, mark)) * count for mark, count in marks)
        / sum(len(mark) * count for mark, count in marks),
        fewest=min(values.values()),
        ascii=all(map(str.isascii, values)),
    )
