"""Files of rows: CSV, JSON (lines, or one list) and Parquet, read record by record.

A record is read by itself: nothing in one row changes how another is read. (A reader that guesses a column's type from
the column turns every label "0" into "0.0" because one cell of it is empty.) No copy is kept anywhere.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
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

    columns: tuple[str, ...]
    records: tuple[Record, ...]


def read_table(path: Path) -> Table:
    """Everything in the file; SettingsError where the file as a whole cannot be read. A broken row is `Malformed`."""
    try:
        if path.suffix == ".csv":
            return _csv(path)
        return _parquet(path) if path.suffix == ".parquet" else _json(path)
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
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        content = file.read()
    records = _json_list(content) if path.suffix == ".json" and content.lstrip().startswith("[") else None
    if records is None:
        records = tuple(_json_lines(content.split("\n")))
    named = (record for record in records if not isinstance(record, Malformed))
    return Table(tuple(dict.fromkeys(column for record in named for column in record)), records)


def _json_list(content: str) -> tuple[Record, ...] | None:
    """The records of a file that is one list; None where it is not."""
    try:
        return tuple(map(_record, json.loads(content)))
    except (ValueError, RecursionError):
        return None


def _json_lines(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _record(json.loads(line))
        except (ValueError, RecursionError):
            yield Malformed("not JSON")


def _record(value: object) -> Record:
    return value if isinstance(value, dict) else Malformed("not a JSON object")


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = tuple(file.schema_arrow.names)
        return Table(columns, tuple(row for batch in file.iter_batches() for row in batch.to_pylist()))
