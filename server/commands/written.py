"""Names, numbers and times in listings at a terminal."""

from __future__ import annotations

from datetime import datetime


def printable(name: str) -> str:
    """As it is, where it is no more than a name on a terminal."""
    return name if name.isprintable() else repr(name)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def day(at: float) -> str:
    """Local time without its year, to the minute."""
    return datetime.fromtimestamp(at).astimezone().strftime("%m-%d %H:%M")
