"""JSON: one object a line, or one list of objects. The columns are whatever the rows name.

One that a row lacks is empty there, and no row decides for another. Types: `fedlora.tables.cells`.

An element of a list ends where its brackets do, outside of text in quotes: one that is no JSON, or nested too deep to
be read, costs itself alone. A `.json` file that begins with `[` and ends with `]` is a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlora.tables.cells import CellError, Kinds, text_of
from fedlora.tables.delimited import open_text
from fedlora.tables.table import Cells, Complaint, Table, whole_or_not

MOST_NAMES = 100
MOST_DIGITS = 4000
NOT_JSON, NO_OBJECT, TWICE = "not JSON", "not a JSON object", "an object that names a field twice"

Value = tuple[int, dict[str, Any] | str]
"""The line that a value begins on, and the object; or what is wrong with it."""


def json_rows(path: Path, columns: Sequence[str]) -> Table:
    """The file's table: a list in `.json` between `[` and `]`, lines otherwise."""
    with open_text(path) as file:
        content = file.read()
    bare = content.strip()
    is_list = path.suffix.lower() == ".json" and bare.startswith("[") and bare.endswith("]")
    kinds, names, rows = Kinds(), dict[str, None](), []
    for line, value in _elements(content) if is_list else _lines(content.split("\n")):
        if isinstance(value, dict) and len(names) < MOST_NAMES:
            names.update(dict.fromkeys(value))
        rows.append(Complaint(line, value) if isinstance(value, str) else _row(line, value, columns, kinds))
    met = {*names, *kinds.first}
    absent = tuple(column for column in columns if column not in met)
    return Table(tuple(names), rows, absent, kinds.mixed(), has_header=False)


def _row(line: int, value: dict[str, Any], columns: Sequence[str], kinds: Kinds) -> Cells | Complaint:
    cells = []
    for column in columns:
        try:
            text, kind = text_of(value.get(column))
        except CellError as error:
            return error.complaint(line, column)
        kinds.met(column, kind, line)
        cells.append(text)
    return whole_or_not(line, tuple(cells), columns)


def _elements(content: str) -> Iterator[Value]:
    """The elements of one list, each by itself as far as it can be told where it ends."""
    place, line = content.index("[") + 1, content.count("\n", 0, content.index("["))
    before = content.index("[")
    while (found := _AFTER.match(content, place)) is not None and found.end() < len(content):
        start = found.end()
        line, before = line + content.count("\n", before, start), start
        place = _end(content, start)
        yield line + 1, _object_or_why(content[start:place])


def _end(content: str, start: int) -> int:
    """Where the element that begins at `start` ends: at the comma or bracket of the list, or with the file."""
    depth = 0
    for found in _MARKS.finditer(content, start):
        mark = found[0]
        if depth == 0 and mark in ",]":
            return found.start()
        depth += (mark in "[{") - (mark in "]}")
    return len(content)


_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]', re.DOTALL)
"""A text in quotes, or what opens, closes and separates."""
_AFTER = re.compile(r"[\s,]*(?![\s,\]])")
"""What may stand before an element; nothing where the list ends."""


def _lines(lines: Iterable[str]) -> Iterator[Value]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        yield number, _object_or_why(line)


class _Twice(dict[str, Any]):
    """An object in which a field stands twice: one of the two would be dropped."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(found)


def _object_or_why(text: str) -> dict[str, Any] | str:
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return NOT_JSON
    if isinstance(value, _Twice):
        return TWICE
    return value if isinstance(value, dict) else NO_OBJECT


def _whole_number(digits: str) -> int | str:
    """As Python reads it; as text where it has more digits than Python makes a number of."""
    return int(digits) if len(digits) <= MOST_DIGITS else digits


_DECODER = json.JSONDecoder(parse_int=_whole_number, object_pairs_hook=_object)
