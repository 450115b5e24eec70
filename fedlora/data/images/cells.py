"""Columns of images in a table: a cell is the path of a file, or, in Parquet, the bytes themselves.

A path is relative to the folder of its table and stays in it: a table that somebody else wrote names none of the
machine's other files, also not through a link.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.data.images.decoding import ImageError, image_of
from fedlora.data.tables.table import Cells, Complaint, whole_or_not

MOST_BYTES = 2**27
"""Of one file: 128 MiB."""


@dataclass(frozen=True)
class ImageColumns:
    """Which of a table's columns hold images, and what their paths are relative to."""

    names: Collection[str] = ()
    folder: Path = Path()

    def whole_or_not(self, line: int, cells: Cells, columns: Sequence[str]) -> Cells | Complaint:
        """The row with the bytes of its images, all of which can be decoded; or the first thing that is wrong."""
        found = whole_or_not(line, cells, columns)
        if isinstance(found, Complaint) or not self.names:
            return found
        try:
            return tuple(
                self._content(cell) if column in self.names else cell
                for cell, column in zip(found, columns, strict=True)
            )
        except ImageError as error:
            (column,) = self.names
            return Complaint(line, f"{error.what} in column {column!r}", error.remedy)

    def _content(self, cell: str | bytes) -> bytes:
        return checked(cell if isinstance(cell, bytes) else content_of(self._path(cell)))

    def _path(self, text: str) -> Path:
        try:
            path = (self.folder / text).resolve()
            inside = path.is_relative_to(self.folder.resolve())
        except (OSError, ValueError, RuntimeError):
            raise ImageError("no path", "give the path of a file") from None
        if not inside:
            raise ImageError("a path that leaves the table's folder", "put the image beside the table or below it")
        return path


NO_IMAGES = ImageColumns()


def content_of(path: Path) -> bytes:
    """A file's bytes; ImageError where there is no such file, or a far too large one."""
    try:
        if not path.is_file():
            raise ImageError("the path of no file", "mend the path")
        if path.stat().st_size > MOST_BYTES:
            raise ImageError(f"an image of more than {MOST_BYTES} bytes", "make it smaller")
        return path.read_bytes()
    except ImageError:
        raise
    except (OSError, ValueError):
        raise ImageError("a file that cannot be opened", "mend its path or its permissions") from None


def checked(content: bytes) -> bytes:
    """The same bytes; ImageError where they are no image."""
    image_of(content)
    return content
