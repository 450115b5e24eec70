"""CSV and TSV through Python's own reader, strict: every cell as it is written.

The separator is the one of comma, semicolon and tab with which the first line holds the columns asked for.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedlora.settings import SettingsError
from fedlora.tables.record import Record, require_columns, unreadable

SEPARATORS = {".csv": ",;\t", ".tsv": "\t"}
LARGEST_CELL = 16 * 1024 * 1024  # characters: a quote that is never closed ends here, and not with the memory
SAVE_AS_UTF8 = "save it as UTF-8 (in a spreadsheet: `CSV UTF-8`)"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of the file; SettingsError with the line where it cannot be read."""
    require_utf8(path)
    header = _header(path, SEPARATORS[path.suffix.lower()], columns)
    csv.field_size_limit(LARGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=header.separator, strict=True)
        try:
            next(reader)
            if reader.line_num > 1:
                raise unreadable(path, "line 1", 'a quote (") in the names of the columns is not closed.')
            yield from _records(path, reader, header.names, columns)
        except csv.Error as error:
            raise unreadable(path, f"line {reader.line_num}", _explained(str(error))) from None


class _Header:
    def __init__(self, separator: str, names: Sequence[str]) -> None:
        self.separator = separator
        self.names = [name.strip() for name in names]


def _header(path: Path, separators: str, columns: tuple[str, ...]) -> _Header:
    """The first line, split by the separator that makes the columns of it; else by the first one."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
    if not first.strip():
        raise SettingsError(f"{path} has no first line with the names of its columns; write one.")
    read = [_Header(separator, next(csv.reader([first], delimiter=separator))) for separator in separators]
    found = next((header for header in read if set(columns) <= set(header.names)), read[0])
    require_columns(path, found.names, columns)
    return found


def _records(path: Path, reader: Iterator[list[str]], names: Sequence[str], columns: Sequence[str]) -> Iterator[Record]:
    places = [names.index(column) for column in columns]
    before = 1
    for cells in reader:
        line, before = before + 1, reader.line_num  # type: ignore[attr-defined]  # csv's reader has it
        if not cells:
            continue
        if len(cells) != len(names):
            raise unreadable(
                path,
                f"line {line}",
                f"{len(cells)} cells under {len(names)} column names; a separator is missing, or one inside a text "
                'is not in quotes ("like, this").',
            )
        yield Record(
            f"{path.name}, line {line}", {name: cells[place] for name, place in zip(columns, places, strict=True)}
        )


def _explained(error: str) -> str:
    if "expected after" in error or "unexpected end of data" in error:
        return 'a quote (") inside a cell is not doubled ("") or never closed; mend it in the file.'
    if "field larger" in error:
        return f'a cell of more than {LARGEST_CELL} characters: a quote (") is never closed; mend it in the file.'
    return f"it cannot be read ({error}); mend it in the file."


def require_utf8(path: Path) -> None:
    """SettingsError with the line where the file is not UTF-8, or is a spreadsheet or UTF-16."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
            if start[:2] in _UTF16:
                raise SettingsError(f"{path} is UTF-16; {SAVE_AS_UTF8}.")
            if start == b"PK\x03\x04":
                raise SettingsError(f"{path} is a spreadsheet or an archive, whatever its name says; export it as CSV.")
            file.seek(0)
            for line, content in enumerate(file, start=1):
                _require_text(path, line, content)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}.") from None


def _require_text(path: Path, line: int, content: bytes) -> None:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise unreadable(path, f"line {line}, byte {error.start + 1}", f"not UTF-8; {SAVE_AS_UTF8}.") from None
    if b"\0" in content:
        raise unreadable(path, f"line {line}", f"it holds a NUL byte, as UTF-16 does; {SAVE_AS_UTF8}.")
