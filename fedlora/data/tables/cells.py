"""How a value of JSON or Parquet becomes the text of a cell: one rule for texts, classes and clients alike.

    text              as it is
    whole number      its decimal digits; so is 3.0, which is what pandas makes of a 3 whose column has an empty cell
    true, false       true, false
    null, NaN         empty
    a list, an object in a column of such: JSON, its names sorted, so that two that are equal are the same text
    anything else     refused: another float (is 0.1 the class 0.1, 0.10 or 1e-1?), a list, an object, bytes, a date

A whole number from 2**53 on is refused where it is a float: what it was before, nobody knows.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Literal

from fedlora.data.tables.table import Complaint

Kind = Literal["text", "a number", "true or false", "nothing"]
EXACT = 2.0**53
OTHERS = {
    list: ("a list", "a cell is one text: join its parts into one"),
    dict: ("an object", "a cell is one text: take out the field that holds it"),
    float: ("a number with a fraction, or beyond 2**53", "write it as text"),
}


class CellError(ValueError):
    """A value that is no text: what it is, and the way out; no content."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy

    def complaint(self, line: int, column: str) -> Complaint:
        return Complaint(line, f"{self.what} in column {column!r}", self.remedy)


def text_of(value: object, *, nested: bool = False) -> tuple[str, Kind]:
    """The value as text, and what it was. `nested`: whether lists and objects are what the column is for.

    >>> [text_of(value)[0] for value in ("007", 7, 7.0, True, None, float("nan"))]
    ['007', '7', '7', 'true', '', '']
    """
    if isinstance(value, str):
        return value, "text"
    if nested and isinstance(value, (list, dict)):
        return json_of(value), "text"
    if value is None or value != value:
        return "", "nothing"
    if isinstance(value, bool):
        return ("true" if value else "false"), "true or false"
    if isinstance(value, int):
        return str(value), "a number"
    if isinstance(value, float) and abs(value) < EXACT and value == math.trunc(value):
        return str(math.trunc(value)), "a number"
    raise CellError(*OTHERS.get(type(value), (f"a {type(value).__name__}", "save the column as text")))


def json_of(value: object) -> str:
    """Equal values, equal texts. CellError for what JSON does not have."""
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise CellError("a list or object with something in it that JSON does not have", "save it as text") from None


@dataclass
class Kinds:
    """Which types a column's values have had, and where each was first met."""

    first: dict[str, dict[Kind, int]] = field(default_factory=dict)

    def met(self, column: str, kind: Kind, line: int) -> None:
        if kind != "nothing":
            self.first.setdefault(column, {}).setdefault(kind, line)

    def mixed(self) -> tuple[Complaint, ...]:
        """One complaint for every further type of a column, at its first value."""
        found = []
        for column, met in self.first.items():
            (before, first), *others = met.items()
            for kind, line in others:
                what = f"{kind} in column {column!r}, which holds {before} on line {first}"
                found.append(Complaint(line, what, "write all of the column as text"))
        return tuple(found)
