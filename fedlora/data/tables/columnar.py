"""Parquet: the schema says what a column holds, as a header does; what one cell cannot be read as spoils its row alone.

Types: `fedlora.data.tables.cells`. A column of dates, decimals or bytes is refused by its type; so is one of lists or
objects where a text is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlora.data.tables.cells import CellError, text_of
from fedlora.data.tables.delimited import require_once
from fedlora.data.tables.table import Cells, Complaint, Table, whole_or_not


def parquet_rows(path: Path, columns: Sequence[str], nested: Collection[str] = ()) -> Table:
    """The file's table; ValueError for a column of a type that is no text, number or truth value."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        absent = tuple(column for column in columns if column not in schema.names)
        require_once([name for name in schema.names if name in columns])
        if absent:
            return Table(tuple(schema.names), [], absent)
        for column in columns:
            if column not in nested:
                _require_plain(column, schema.field(column).type)
        rows: list[Cells | Complaint] = []
        for batch in file.iter_batches(columns=list(columns)):
            rows.extend(_rows(batch, columns, nested, first=len(rows) + 1))
    return Table(tuple(schema.names), rows)


def _require_plain(column: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    if not any(test(kind) for test in (*plain, types.is_string_view, types.is_null)):
        raise ValueError(f"column {column!r} holds {kind}; save it as text.")


def _rows(batch: Any, columns: Sequence[str], nested: Collection[str], *, first: int) -> Iterator[Cells | Complaint]:
    for row in range(batch.num_rows):
        cells = []
        for place, column in enumerate(columns):
            try:
                cells.append(text_of(batch.column(place)[row].as_py(), nested=column in nested)[0])
            except UnicodeDecodeError:
                yield Complaint(first + row, f"not UTF-8 in column {column!r}")
                break
            except CellError as error:
                yield error.complaint(first + row, column)
                break
        else:
            yield whole_or_not(first + row, tuple(cells), columns)
