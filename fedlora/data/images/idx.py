"""MNIST's own format: `...-images-idx3-ubyte` with the classes in `...-labels-idx1-ubyte` beside it, or both in `.gz`.

    images   00 00 08 03, then count, rows, columns (32 bits each, most significant first), then a byte a pixel
    labels   00 00 08 01, then count, then a byte a class

An image becomes the bytes of a PGM file, which is a line before the same pixels.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from fedlora.data.tables.table import Table

NAME = re.compile(r"images([-.]idx)3(-ubyte)?(\.gz)?$")
IMAGES, LABELS = 0x0803, 0x0801
MOST_PIXELS = 2**31
"""Of all images together."""


def is_idx(path: Path) -> bool:
    """
    >>> is_idx(Path("train-images-idx3-ubyte.gz")), is_idx(Path("train-labels-idx1-ubyte.gz"))
    (True, False)
    """
    return NAME.search(path.name) is not None


def labels_beside(path: Path) -> Path:
    """
    >>> str(labels_beside(Path("t10k-images-idx3-ubyte.gz")))
    't10k-labels-idx1-ubyte.gz'
    """
    return path.with_name(NAME.sub(r"labels\g<1>1\g<2>\g<3>", path.name))


def idx_table(path: Path, columns: Sequence[str]) -> Table:
    """The images with their classes, in order; ValueError where the files are not of this form, OSError as it comes."""
    beside = labels_beside(path)
    if not beside.is_file():
        raise ValueError(f"the classes of its images are not beside it, in {beside.name}.")
    (count, height, width), pixels = read_idx(path, IMAGES, sides=3)
    (labelled,), classes = read_idx(beside, LABELS, sides=1)
    if count != labelled:
        raise ValueError(f"it has {count} images, and {beside.name} has {labelled} classes.")
    size = height * width
    rows = [(pgm(pixels[at * size : (at + 1) * size], height, width), str(classes[at])) for at in range(count)]
    return Table(tuple(columns), rows)


def read_idx(path: Path, magic: int, *, sides: int) -> tuple[tuple[int, ...], bytes]:
    """Its sides, the number of entries first, and its content, which is read as far as the header says."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(4 * (1 + sides))
        if len(header) < 4 * (1 + sides) or header[:4] != struct.pack(">I", magic):
            raise ValueError(f"{path.name} is no IDX file of the kind that its name says.")
        shape = struct.unpack(f">{sides}I", header[4:])
        whole = math.prod(shape)
        if whole > MOST_PIXELS:
            raise ValueError(f"{path.name} has {whole} bytes in it; more than {MOST_PIXELS} are not read.")
        content = file.read(whole + 1)
    if len(content) != whole:
        raise ValueError(f"{path.name} is cut short, or longer than its header says.")
    return shape, content


def pgm(pixels: bytes, height: int, width: int) -> bytes:
    """The bytes of a file with these grey pixels, 0 to 255."""
    return f"P5\n{width} {height}\n255\n".encode() + pixels
