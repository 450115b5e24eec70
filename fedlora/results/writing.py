"""Answers as lines: CSV, or JSON Lines; a file is there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from fedlora.settings import SettingsError

Line = Mapping[str, Any]
Write = Callable[[Line], None]

ERROR = "error"
"""The column of what is wrong with a row."""


class Kind(StrEnum):
    """What lines look like."""

    csv = "csv"
    jsonl = "jsonl"


def kind_of(out: Path | None, *, as_json: bool) -> Kind:
    """By the file's ending, or as asked for; SettingsError where they are at odds, or the ending is neither."""
    ending = None if out is None else out.suffix.lower().removeprefix(".")
    if ending is None:
        return Kind.jsonl if as_json else Kind.csv
    if ending not in tuple(Kind) or (as_json and ending != Kind.jsonl):
        raise SettingsError(f"--out {out}: answers are written as .csv or .jsonl; call it {out and out.stem}.jsonl.")
    return Kind(ending)


@contextmanager
def new_file(out: Path) -> Iterator[TextIO]:
    """Takes its name at the end; SettingsError where there is such a file already."""
    if out.exists():
        raise SettingsError(f"{out} is there already; remove it, or give another --out.")
    if not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: there is no folder {out.parent}; make it, or give another.")
    part = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def lines_in(file: TextIO, kind: Kind) -> Iterator[Write]:
    """Writes a line at a time, and flushes it: who reads a pipe sees it at once."""
    lines = CsvLines(file) if kind is Kind.csv else JsonLines(file)
    yield lines.write
    lines.end()


class JsonLines:
    """An object a line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, line: Line) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def end(self) -> None:
        """Nothing stands behind the last one."""


class CsvLines:
    """A CSV whose columns are those of the first line that has an answer; `error` is the last."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines = csv.writer(file, lineterminator="\n")
        self._names: list[str] | None = None
        self._early: list[Line] = []
        """Lines without an answer from before the first one that has one."""

    def write(self, line: Line) -> None:
        if self._names is None and ERROR in line:
            self._early.append(line)
            return
        if self._names is None:
            self._begin([*line, ERROR])
        self._put(line)

    def end(self) -> None:
        """The header of a file in which no row has an answer."""
        if self._names is None:
            self._begin(list(self._early[0]) if self._early else [ERROR])

    def _begin(self, names: list[str]) -> None:
        self._names = names
        self._lines.writerow(names)
        for line in self._early:
            self._put(line)

    def _put(self, line: Line) -> None:
        assert self._names is not None  # _begin
        self._lines.writerow([cell(line.get(name)) for name in self._names])
        self._file.flush()


def cell(value: object) -> object:
    """Lists and truth values as JSON writes them; nothing for None."""
    if isinstance(value, list | bool):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value
