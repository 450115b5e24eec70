"""JSON: one object a line, or one list of objects. The columns are whatever the rows name.

One that a row lacks is empty there, and no row decides for another. Types: `fedlora.data.tables.cells`.

A `.json` file that begins with `[` is a list, whatever stands at its end; what stands behind the list is read by lines.
An element ends where its brackets do, outside of text in quotes: one that is no JSON, has a closing bracket too many or
is nested too deep to be read costs itself alone. One with a closing bracket too few takes what follows with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fedlora.data.images.cells import NO_IMAGES, ImageColumns
from fedlora.data.tables.cells import CellError, Kinds, text_of
from fedlora.data.tables.delimited import open_text
from fedlora.data.tables.table import Cells, Complaint, Table

MOST_NAMES = 100
MOST_DIGITS = 4000
NOT_JSON, NO_OBJECT, TWICE = "not JSON", "not a JSON object", "an object that names a field twice"

Value = tuple[int, dict[str, Any] | str]
"""The line that a value begins on, and the object; or what is wrong with it."""


def json_rows(
    path: Path, columns: Sequence[str], nested: Collection[str] = (), images: ImageColumns = NO_IMAGES
) -> Table:
    """The file's table: a list in `.json` that begins with `[`, lines otherwise."""
    with open_text(path) as file:
        content = file.read()
    is_list = path.suffix.lower() == ".json" and content.lstrip().startswith("[")
    kinds, names, rows = Kinds(), dict[str, None](), list[Cells | Complaint]()
    for line, value in _elements(content) if is_list else _lines(content.split("\n"), first=1):
        if isinstance(value, dict) and len(names) < MOST_NAMES:
            names.update(dict.fromkeys(value))
        found = Complaint(line, value) if isinstance(value, str) else _cells(line, value, columns, nested, kinds)
        rows.append(found if isinstance(found, Complaint) else images.whole_or_not(line, found, columns))
    met = {*names, *kinds.first}
    absent = tuple(column for column in columns if column not in met)
    return Table(tuple(names), rows, absent, kinds.mixed(), has_header=False)


def _cells(
    line: int, value: dict[str, Any], columns: Sequence[str], nested: Collection[str], kinds: Kinds
) -> Cells | Complaint:
    cells = []
    for column in columns:
        try:
            text, kind = text_of(value.get(column), nested=column in nested)
        except CellError as error:
            return error.complaint(line, column)
        kinds.met(column, kind, line)
        cells.append(text)
    return tuple(cells)


def _elements(content: str) -> Iterator[Value]:
    """The elements of one list, each by itself as far as it can be told where it ends; then the lines behind it."""
    before = content.index("[")
    place, line = before + 1, content.count("\n", 0, before) + 1
    while (start := _skipped(content, place)) < len(content) and not _ends_list(content, start):
        line, before = line + content.count("\n", before, start), start
        place = _end(content, start)
        yield line, _object_or_why(content[start:place])
    line += content.count("\n", before, start)
    yield from _lines(content[start + 1 :].split("\n"), first=line)


def _skipped(content: str, place: int) -> int:
    """Past what may stand before an element."""
    found = _BETWEEN.match(content, place)
    return place if found is None else found.end()


def _end(content: str, start: int) -> int:
    """Where the element that begins at `start` ends: at the comma or bracket of the list, or with the file."""
    depth = 0
    for found in _MARKS.finditer(content, start):
        mark = found[0]
        if depth == 0 and (mark == "," or _ends_list(content, found.start())):
            return found.start()
        depth = max(0, depth + (mark in "[{") - (mark in "]}"))
    return len(content)


def _ends_list(content: str, place: int) -> bool:
    """Whether the list's own bracket stands there: one that a comma follows is an element's mistake."""
    return content[place] == "]" and not _COMMA.match(content, place + 1)


_BETWEEN = re.compile(r"[\s,]*")
_COMMA = re.compile(r"\s*,")
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)
"""A text in quotes, to the end of the file where it is not closed; or what opens, closes and separates."""


def _lines(lines: Iterable[str], *, first: int) -> Iterator[Value]:
    for number, line in enumerate(lines, start=first):
        if line.strip():
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
