"""Files of rows: CSV, JSON (lines, or one list) and Parquet, read record by record.

A record is read by itself: nothing in one row changes how another is read. (A reader that guesses a column's type from
the column turns every label "0" into "0.0" because one cell of it is empty.) No copy is kept anywhere.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.settings import SettingsError

READERS = (".csv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Malformed:
    """A row that is no record; `why` names no content."""

    why: str


Record = Mapping[str, Any] | Malformed


@dataclass(frozen=True)
class Table:
    """A file's columns and its rows, in order."""

    columns: tuple[str, ...] | None
    """None for JSON, whose rows name their own."""
    records: tuple[Record, ...]


def read_table(path: Path, columns: Sequence[str]) -> Table:
    """The rows of the file, with at least these columns where it has them. A broken row is `Malformed`.

    SettingsError where the file as a whole cannot be read.
    """
    try:
        if path.suffix == ".csv":
            return _csv(path)
        return _parquet(path, columns) if path.suffix == ".parquet" else _json(path)
    except (ValueError, OSError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None


def _csv(path: Path) -> Table:
    """The first line names the columns; bytes that are not UTF-8 spoil only the row that they are in."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            raise ValueError("it is empty; the first line must name the columns.")
        return Table(tuple(header), tuple(_csv_records(reader, header)))


def _csv_records(reader: Iterator[list[str]], header: list[str]) -> Iterator[Record]:
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Malformed("not CSV")
            continue
        if len(cells) > len(header):
            yield Malformed("more cells than columns")
        elif cells:
            yield dict(zip(header, [*cells, *[""] * (len(header) - len(cells))], strict=True))


def _json(path: Path) -> Table:
    """The columns are whatever its rows name: one that a row lacks is empty there, and no row decides for another."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        content = file.read()
    is_list = path.suffix == ".json" and content.lstrip().startswith("[")
    return Table(None, tuple(_json_list(content) if is_list else _json_lines(content.split("\n"))))


def _json_list(content: str) -> Iterator[Record]:
    """The elements of one list, each by itself as far as it can be told where it ends."""
    decoder, place = json.JSONDecoder(parse_int=_whole_number), content.index("[") + 1
    while (found := _AFTER.match(content, place)) is not None and found.end() < len(content):
        start = found.end()
        try:
            value, place = decoder.raw_decode(content, start)
        except (ValueError, RecursionError):
            yield Malformed("not JSON")
            return
        yield _record(value)


_AFTER = re.compile(r"[\s,]*(?![\s,\]])")
"""What may stand before an element; nothing where the list ends."""


def _whole_number(digits: str) -> int | str:
    """As Python reads it; as text where it has more digits than Python makes a number of."""
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


_MOST_DIGITS = 4000


def _json_lines(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line, parse_int=_whole_number))
        except (ValueError, RecursionError):
            yield Malformed("not JSON")


def _record(value: object) -> Record:
    return value if isinstance(value, dict) else Malformed("not a JSON object")


def _parquet(path: Path, columns: Sequence[str]) -> Table:
    """Only the columns that are asked for, cell by cell: what one of them cannot be read as spoils its row alone."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        names = tuple(file.schema_arrow.names)
        wanted = [column for column in columns if column in names]
        batches = file.iter_batches(columns=wanted)
        return Table(names, tuple(record for batch in batches for record in _parquet_records(batch, wanted)))


def _parquet_records(batch: Any, columns: Sequence[str]) -> Iterator[Record]:
    for row in range(batch.num_rows):
        try:
            yield {column: batch.column(column)[row].as_py() for column in columns}
        except (ValueError, OverflowError):  # UnicodeDecodeError is one
            yield Malformed("a value that cannot be read")
