"""Parquet: the schema says what a column holds, as a header does; what one cell cannot be read as spoils its row alone.

Types: `fedlora.data.tables.cells`. A column of dates, decimals or bytes is refused by its type; so is one of lists or
objects where a text is asked for. An image is bytes, or what `datasets` writes: an object of its bytes and a path.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlora.data.images.cells import NO_IMAGES, ImageColumns
from fedlora.data.tables.cells import CellError, text_of
from fedlora.data.tables.delimited import require_once
from fedlora.data.tables.table import Cells, Complaint, Table


def parquet_rows(
    path: Path, columns: Sequence[str], nested: Collection[str] = (), images: ImageColumns = NO_IMAGES
) -> Table:
    """The file's table; ValueError for a column of a type that is no text, number or truth value."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        absent = tuple(column for column in columns if column not in schema.names)
        require_once([name for name in schema.names if name in columns])
        if absent:
            return Table(tuple(schema.names), [], absent)
        for column in columns:
            if column not in nested and column not in images.names:
                _require_plain(column, schema.field(column).type)
        rows: list[Cells | Complaint] = []
        for batch in file.iter_batches(columns=list(columns)):
            rows.extend(_rows(batch, columns, nested, images, first=len(rows) + 1))
    return Table(tuple(schema.names), rows)


def _require_plain(column: str, kind: Any) -> None:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    if not any(test(kind) for test in (*plain, types.is_string_view, types.is_null)):
        raise ValueError(f"column {column!r} holds {kind}; save it as text.")


def _rows(
    batch: Any, columns: Sequence[str], nested: Collection[str], images: ImageColumns, *, first: int
) -> Iterator[Cells | Complaint]:
    for row in range(batch.num_rows):
        cells: list[str | bytes] = []
        for place, column in enumerate(columns):
            try:
                value = batch.column(place)[row].as_py()
                cells.append(image_in(value) if column in images.names else text_of(value, nested=column in nested)[0])
            except UnicodeDecodeError:
                yield Complaint(first + row, f"not UTF-8 in column {column!r}")
                break
            except CellError as error:
                yield error.complaint(first + row, column)
                break
        else:
            yield images.whole_or_not(first + row, tuple(cells), columns)


def image_in(value: object) -> str | bytes:
    """The bytes of an image, or its path; empty for neither. CellError for what is no image.

    >>> image_in({"bytes": b"GIF", "path": "a.gif"}), image_in({"bytes": None, "path": "a.gif"}), image_in(None)
    (b'GIF', 'a.gif', '')
    """
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, bytes) else text_of(value)[0]
