"""A value of JSON or Parquet as text: one rule, which depends on the value alone.

text            as it is
whole number    its decimal digits: 7 -> "7"
true, false     "true", "false"
null, absent    empty
anything else   refused: 0.5 and 1.0 (a reader may have made them of 1), lists, structures, bytes, dates
"""

from __future__ import annotations

KINDS = {str: "text", bool: "true/false", int: "whole numbers"}
WAY_OUT = {
    float: "numbers with a fraction; write them as text",
    list: "a list; give a column of plain texts",
    dict: "a structure; give a column of plain texts",
    bytes: "bytes that are not UTF-8; write them as text",
}


class UnfitValueError(ValueError):
    """A value that has no text of its own; the message says its kind and the way out."""


def text_of(value: object) -> str:
    """The value as text; UnfitValueError where the rule has none.

    >>> [text_of(value) for value in ("007", 7, True, None)]
    ['007', '7', 'true', '']
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise UnfitValueError(WAY_OUT.get(type(value), f"a value of the kind {type(value).__name__}; write it as text"))


class OneKind:
    """Remembers what kind of value a column holds: two kinds in one column are two spellings of nobody knows what."""

    def __init__(self) -> None:
        self._kinds: dict[str, type] = {}

    def text(self, column: str, value: object) -> str:
        """The value as text; UnfitValueError where the column held another kind before."""
        found = text_of(value)
        if value is None:
            return found
        kind = self._kinds.setdefault(column, type(value))
        if kind is not type(value):
            raise UnfitValueError(f"{KINDS[type(value)]}, and {KINDS[kind]} before; write the whole column as text")
        return found
