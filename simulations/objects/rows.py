"""Rows that are objects of this process as the tables that files are read into: the same forms, the same complaints.

    a list of dicts, any iterable of mappings     as it is
    datasets.Dataset                              is one
    pandas, polars, pyarrow                       row by row
    texts                                         rows of the task's form of one column, as a language model's `text`

A cell becomes text by the rule of JSON and Parquet (`fedlora.data.tables.cells`). An image is bytes, the object of
bytes that `datasets` holds, an image of Pillow, or a path below the folder that one works in.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlora.config import DataSettings
from fedlora.data.chosen_columns import columns_for
from fedlora.data.form import Columns
from fedlora.data.images.cells import ImageColumns
from fedlora.data.rows import File
from fedlora.data.tables.cells import CellError, Kinds, text_of
from fedlora.data.tables.columnar import image_in
from fedlora.data.tables.table import Cells, Complaint, Table
from fedlora.settings import SettingsError
from fedlora.tasks.registry import forms_of

NO_MAPPING = Complaint(0, "no mapping of column names to values")


def files_given(clients: Mapping[str, Any], settings: DataSettings, task: str) -> tuple[list[File], DataSettings]:
    """A table for every client, and `settings` with the format that its rows have; SettingsError for what is no rows.

    Where `data.format` chooses none, it is the first of the task's all of whose columns the first row has.
    """
    if not isinstance(clients, Mapping) or not clients:
        raise SettingsError(
            "clients: give the rows of each client by its name, as in clients={'north': rows, 'south': other_rows}."
        )
    rows = {str(name): list(rows_of(name, given)) for name, given in clients.items()}
    if (alone := only_column(settings, task)) is not None:
        rows = {name: [{alone: row} if isinstance(row, str) else row for row in own] for name, own in rows.items()}
    first = next((set(row) for found in rows.values() for row in found[:1] if isinstance(row, Mapping)), set())
    columns = fitting(settings, task, first)
    own = settings.model_copy(update={"format": columns.form.name} if len(forms_of(task)) > 1 else {})
    return [File(Path(name), table_of(found, columns), client=name, lines=False) for name, found in rows.items()], own


def only_column(settings: DataSettings, task: str) -> str | None:
    """What the column of a bare text is called; None where no form of the task, or not the chosen one, has only one."""
    chosen = [form for form in forms_of(task) if settings.format in (None, form.name)]
    alone = next((form for form in chosen if len(form.columns) == 1 and not form.nested and not form.images), None)
    return None if alone is None else columns_for(settings.of_form(alone), task).names[0]


def rows_of(name: object, given: Any) -> Iterator[Any]:
    """Row by row, whatever library the table is of."""
    if isinstance(given, str | bytes | Mapping):
        raise SettingsError(f"clients[{name!r}] is a {type(given).__name__}; give a dataset, a data frame or a list.")
    if hasattr(given, "iloc"):  # pandas, which iterates over its columns
        return iter(given.to_dict("records"))
    if hasattr(given, "iter_rows"):  # polars
        return iter(given.iter_rows(named=True))
    if hasattr(given, "to_pylist"):  # pyarrow
        return iter(given.to_pylist())
    try:
        return iter(given)
    except TypeError:
        raise SettingsError(
            f"clients[{name!r}] is a {type(given).__name__}, which has no rows; give a dataset, a data frame or a list."
        ) from None


def fitting(settings: DataSettings, task: str, names: set[str]) -> Columns:
    """The columns of the chosen format, or of the first that the rows have all columns of."""
    if settings.format is not None:
        return columns_for(settings, task)
    for form in forms_of(task):
        columns = columns_for(settings.of_form(form), task)
        if names >= set(columns.names):
            return columns
    return columns_for(settings, task)


def table_of(rows: Sequence[Any], columns: Columns) -> Table:
    """The rows' cells, or what is wrong with each row by itself."""
    names: dict[str, None] = {}
    kinds, images = Kinds(), ImageColumns(columns.images)
    found: list[Cells | Complaint] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            found.append(Complaint(number, NO_MAPPING.what))
            continue
        names.update(dict.fromkeys(map(str, row)))
        cells = _cells(number, row, columns, kinds)
        found.append(cells if isinstance(cells, Complaint) else images.whole_or_not(number, cells, columns.names))
    absent = tuple(column for column in columns.names if column not in names)
    return Table(tuple(names), found, absent, kinds.mixed(), has_header=False)


def _cells(number: int, row: Mapping[str, Any], columns: Columns, kinds: Kinds) -> Cells | Complaint:
    cells: list[str | bytes] = []
    for column in columns.names:
        value = plain(row.get(column))
        try:
            if column in columns.images:
                cells.append(image_in(value))
                continue
            text, kind = text_of(value, nested=column in columns.nested)
        except CellError as error:
            return error.complaint(number, column)
        kinds.met(column, kind, number)
        cells.append(text)
    return tuple(cells)


def plain(value: Any) -> Any:
    """As Python has it: a number of numpy, an image of Pillow, an array of objects, the nothing of pandas.

    >>> import numpy as np
    >>> plain(np.int64(3)), plain("3"), plain(np.array([{"role": "user"}], dtype=object))
    (3, '3', [{'role': 'user'}])
    """
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return value.tolist()
    if hasattr(value, "tobytes") and hasattr(value, "save") and hasattr(value, "getbands"):
        content = io.BytesIO()
        value.save(content, format="PNG")
        return content.getvalue()
    return value
