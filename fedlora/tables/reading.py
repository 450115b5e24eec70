"""A file's kind by the end of its name, and its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedlora.tables.csv_file import read_csv
from fedlora.tables.json_file import read_json
from fedlora.tables.parquet_file import read_parquet
from fedlora.tables.record import Record

__all__ = ["READERS", "Record", "read_table"]

READERS: Mapping[str, Callable[[Path, tuple[str, ...]], Iterator[Record]]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".json": read_json,
    ".jsonl": read_json,
    ".parquet": read_parquet,
}


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of one file, by the end of its name (`READERS`). The path is a path, never a pattern."""
    return READERS[path.suffix.lower()](path, columns)
