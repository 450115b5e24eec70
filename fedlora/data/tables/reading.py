"""A path is a path; its ending says which reader reads it, and what no reader can read is refused with the way out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fedlora.data.images.cells import ImageColumns
from fedlora.data.tables.columnar import parquet_rows
from fedlora.data.tables.conll import conll_rows
from fedlora.data.tables.delimited import delimited
from fedlora.data.tables.json_rows import json_rows
from fedlora.data.tables.table import Table
from fedlora.settings import SettingsError

READERS: Mapping[str, Callable[[Path, Sequence[str], Collection[str], ImageColumns], Table]] = {
    ".bio": conll_rows,
    ".conll": conll_rows,
    ".csv": delimited,
    ".json": json_rows,
    ".jsonl": json_rows,
    ".parquet": parquet_rows,
    ".tsv": delimited,
}
SHEET, PACKED, UTF16 = (
    "it is a spreadsheet or an archive; save it as UTF-8 CSV.",
    "it is compressed; unpack it first.",
    "it is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8).",
)
ENDINGS = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), SHEET),
    **dict.fromkeys((".gz", ".zip", ".bz2", ".xz", ".zst", ".7z"), PACKED),
}
BEGINNINGS = {b"PK\x03\x04": SHEET, b"\xd0\xcf\x11\xe0": SHEET, b"\x1f\x8b": PACKED, b"BZh": PACKED,
              b"\x28\xb5\x2f\xfd": PACKED, b"\xfd7zX": PACKED, b"\xff\xfe": UTF16, b"\xfe\xff": UTF16}  # fmt: skip


def read_table(path: Path, columns: Sequence[str], nested: Collection[str] = (), images: Collection[str] = ()) -> Table:
    """The columns of the file's rows; in those of `nested`, lists and objects are cells too, in `images`, images.

    SettingsError where the file as a whole cannot be read.
    """
    reader = READERS[path.suffix.lower()]
    try:
        if reader is delimited:  # there the first bytes are the header's; of JSON Lines they are a row's
            refuse_foreign(path)
        return reader(path, columns, nested, ImageColumns(images, path.parent))
    except (ValueError, OSError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None


def refuse_foreign(path: Path) -> None:
    """ValueError for a file that is no text in UTF-8, by its first bytes, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(4)
    for beginning, why in BEGINNINGS.items():
        if start.startswith(beginning):
            raise ValueError(why)
    if b"\0" in start:
        raise ValueError(UTF16)


def refuse_ending(path: Path) -> None:
    """SettingsError for a file that somebody would believe is read, and is not."""
    why = ENDINGS.get(path.suffix.lower())
    if why is not None:
        raise SettingsError(f"cannot read {path}: {why}")
