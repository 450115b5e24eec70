"""A row: one example as its source has it, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from fedlora.data.form import TEXT_AND_LABEL, Form


@dataclass(frozen=True, slots=True)
class Row:
    """The cells of a form's columns, and the organisation that they belong to ("" where nobody asked)."""

    form: Form
    cells: tuple[str, ...]
    client: str = ""

    def __getitem__(self, column: str) -> str:
        """The cell of one of the form's columns; ValueError for another column."""
        return self.cells[self.form.columns.index(column)]

    @property
    def key(self) -> str:
        """What the example is known by: the rows that share it are one."""
        if self.form.key is not None:
            return self[self.form.key]
        return self.cells[0] if len(self.cells) == 1 else json.dumps(self.cells)

    @property
    def text(self) -> str:
        """What a model reads of it: its cells without the class."""
        return "".join(
            cell for column, cell in zip(self.form.columns, self.cells, strict=True) if column != self.form.label
        )

    @property
    def label(self) -> str | None:
        """Its class; None where rows have none."""
        return None if self.form.label is None else self[self.form.label]


def text_row(text: str, label: str, client: str = "") -> Row:
    """A text with its class."""
    return Row(TEXT_AND_LABEL, (text, label), client)


def labels_in(rows: Iterable[Row]) -> tuple[str, ...]:
    """The classes of these rows, sorted; none where rows have no classes."""
    return tuple(sorted({row.label for row in rows if row.label is not None}))
