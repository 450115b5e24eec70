"""Images that no table names: of a folder of class folders, or of a file of MNIST's form."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from fedlora.data.form import Columns
from fedlora.data.images.cells import checked, content_of
from fedlora.data.images.decoding import ImageError
from fedlora.data.images.folder import FOREIGN, Found, images_in, require_clients
from fedlora.data.images.idx import idx_table, is_idx, labels_beside
from fedlora.data.tables.delimited import SEPARATORS, header_of, separator_of
from fedlora.data.tables.reading import READERS
from fedlora.data.tables.table import Cells, Complaint, Table, whole_or_not
from fedlora.settings import SettingsError

log = logging.getLogger(__name__)

USUAL = frozenset({"file_name", "filename", "image", "path"})
"""What tables of images call the column of their files (`datasets`: file_name). One that has it is no stray file, even
where the settings call it otherwise: then the settings are to be mended, and folders are not taken for classes."""


def images_below(source: str, columns: Columns) -> list[Path] | None:
    """The files, where the source is such a folder or file; None where it is not."""
    path = Path(source).expanduser()
    if is_idx(path):
        return [path, labels_beside(path)] if path.is_file() and labels_beside(path).is_file() else None
    return [found.path for found in _unnamed(path, columns)] or None


def image_tables(source: str, columns: Columns) -> Iterator[tuple[Path, Table, str | None]] | None:
    """A table a file, and whose it is; None where the source is no such folder or file.

    SettingsError where somebody asks whose the images are and the source does not say, or a file of MNIST's form cannot
    be read.
    """
    path = Path(source).expanduser()
    if is_idx(path) and path.is_file():
        return iter([(path, _idx(path, columns), None)])
    found = _unnamed(path, columns)
    if found:
        for table in tables_in(path):
            log.warning(
                "%s is not read: it has no column %r, and beside it are folders of images", table, _image(columns)
            )
    if found and columns.client is not None:
        require_clients(path, found)
    return ((one.path, _table(one, columns), _client(one, columns)) for one in found) if found else None


def _idx(path: Path, columns: Columns) -> Table:
    if columns.client is not None:
        raise SettingsError(
            f"data.source: {path} does not say whose an image is; data.partition=iid and data.clients=4 deal them by "
            "chance."
        )
    try:
        return idx_table(path, columns.names)
    except (ValueError, OSError, EOFError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from None


def _unnamed(path: Path, columns: Columns) -> list[Found]:
    """The images of class folders; none where a table of the folder names images: it says more than folders do."""
    return images_in(path) if path.is_dir() and not any(names_images(one, columns) for one in tables_in(path)) else []


def tables_in(folder: Path) -> list[Path]:
    """Of the folder itself, in order of their names."""
    return sorted(one for one in folder.iterdir() if one.suffix.lower() in READERS and one.is_file())


def names_images(table: Path, columns: Columns) -> bool:
    """Whether a table names images, as far as what is no row of it says: by its header where it has one.

    A table of JSON or Parquet is taken to: only its rows could tell, and of these one must not decide how others are
    read.
    """
    if table.suffix.lower() not in SEPARATORS:
        return table.suffix.lower() in (".json", ".jsonl", ".parquet")
    try:
        header = header_of(table, separator_of(table, columns.names)) or ()
    except (ValueError, OSError):
        return False
    return not (USUAL | {_image(columns)}).isdisjoint(header)


def _image(columns: Columns) -> str:
    """The source's name of the column of images."""
    return next(iter(columns.images), "image")


def _client(found: Found, columns: Columns) -> str | None:
    return None if columns.client is None else found.client


def _table(found: Found, columns: Columns) -> Table:
    return Table(columns.names, [_row(found, columns)], has_header=False)


def _row(found: Found, columns: Columns) -> Cells | Complaint:
    if found.label is None:
        return Complaint(1, "an image in no class's folder", "move it into one")
    if columns.client is not None and found.client is None:
        return Complaint(1, "an image in no client's folder", "move its class's folder into one")
    if found.path.suffix.lower() in FOREIGN:
        return Complaint(1, "an image of a kind that is not read", "save it as PNG or JPEG")
    try:
        content = checked(content_of(found.path))
    except ImageError as error:
        return Complaint(1, error.what, error.remedy)
    row = whole_or_not(1, (content, found.label, found.client or "none"), ("image", "label", "client"))
    return row if isinstance(row, Complaint) else row[: len(columns.names)]
