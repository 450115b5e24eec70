"""JSON Lines (an object a line), or JSON: one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedlora.settings import SettingsError
from fedlora.tables.csv_file import require_utf8
from fedlora.tables.record import Record, unreadable
from fedlora.tables.values import OneKind, UnfitValueError


class _RepeatedKeyError(ValueError):
    pass


def read_json(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of the file; a column that no object has is refused, one that some lack is empty there."""
    require_utf8(path)
    kinds, seen, names = OneKind(), set[str](), set[str]()
    for where, values in _objects(path):
        names |= values.keys()
        seen |= {column for column in columns if column in values}
        yield Record(f"{path.name}, {where}", {c: _cell(path, where, kinds, c, values.get(c)) for c in columns})
    for column in columns:
        if column not in seen:
            raise SettingsError(
                f"{path} has no column {column!r}; it has {', '.join(map(repr, sorted(names))) or 'none'}."
            )


def _cell(path: Path, where: str, kinds: OneKind, column: str, value: object) -> str:
    try:
        return kinds.text(column, value)
    except UnfitValueError as error:
        raise unreadable(path, f"{where}, column {column!r}", f"{error}.") from None


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(64).lstrip()
        file.seek(0)
        if start.startswith("["):
            for number, value in enumerate(_parsed(path, "the list", file.read()), start=1):
                yield f"row {number}", _object(path, f"row {number}", value)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                where = f"line {number}"
                yield where, _object(path, where, _parsed(path, where, line))


def _object(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise unreadable(path, where, 'not an object; write {"column": value, ...}.')
    return value


def _parsed(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except _RepeatedKeyError as error:
        raise unreadable(path, where, f"the key {error} stands twice in one object; remove one.") from None
    except json.JSONDecodeError as error:
        raise unreadable(
            path,
            where,
            f"not JSON at column {error.colno} ({error.msg}); write an object a line, or one list of objects.",
        ) from None
    except RecursionError:
        raise unreadable(path, where, "it is nested too deeply; give plain objects.") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(repr(next(name for name in names if names.count(name) > 1)))
    return found
