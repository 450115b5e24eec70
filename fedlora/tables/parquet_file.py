"""Parquet through pyarrow, a batch at a time, the columns that are asked for alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedlora.settings import SettingsError
from fedlora.tables.record import Record, require_columns, unreadable
from fedlora.tables.values import OneKind, UnfitValueError

ROWS_AT_ONCE = 4096


def read_parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of the file. Bytes are read as UTF-8 where they are UTF-8."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException):
        raise SettingsError(f"{path} is no Parquet file, or a damaged one; write it again.") from None
    with table:
        require_columns(path, table.schema_arrow.names, columns)
        kinds, row = OneKind(), 0
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=list(columns)):
            for values in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                row += 1
                cells = {
                    column: _cell(path, row, kinds, column, value)
                    for column, value in zip(columns, values, strict=True)
                }
                yield Record(f"{path.name}, row {row}", cells)


def _cell(path: Path, row: int, kinds: OneKind, column: str, value: object) -> str:
    try:
        if isinstance(value, bytes):
            value = value.decode()
    except UnicodeDecodeError:
        pass  # refused below, as bytes
    try:
        return kinds.text(column, value)
    except UnfitValueError as error:
        raise unreadable(path, f"row {row}, column {column!r}", f"{error}.") from None
