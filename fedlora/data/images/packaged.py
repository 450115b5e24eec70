"""Packaged images: public, small, and of nobody in particular, so that a recipe deals them to clients."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

from fedlora.data.form import IMAGE_AND_LABEL
from fedlora.data.images.idx import idx_table, pgm
from fedlora.data.located import file_of
from fedlora.data.row import Row
from fedlora.data.tables.table import Complaint
from fedlora.models.packaged import VISION_INSTALL
from fedlora.settings import SettingsError

DIGITS = "datasets/data/digits.csv.gz"
SIDE, LEVELS = 8, 16
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
FASHION_INSTALL = "apt-get install dataset-fashion-mnist"
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def digits() -> Iterator[Row]:
    """The 1,797 handwritten digits, 8 x 8 in 17 shades, that come with scikit-learn (UCI, CC BY 4.0)."""
    with gzip.open(file_of("sklearn", DIGITS, install=VISION_INSTALL), "rt", newline="") as file:
        for record in csv.reader(file):
            *shades, label = (round(float(value)) for value in record)
            pixels = bytes(round(shade * 255 / LEVELS) for shade in shades)
            yield Row(IMAGE_AND_LABEL, (pgm(pixels, SIDE, SIDE), str(label)))


def fashion() -> Iterator[Row]:
    """The 10,000 test images of Fashion-MNIST (MIT), 28 x 28, as Debian installs them; its 60,000 others are a file."""
    if not FASHION.is_file():
        raise SettingsError(f"these data are not installed; install them with: {FASHION_INSTALL}")
    for row in idx_table(FASHION, IMAGE_AND_LABEL.columns).rows:
        assert not isinstance(row, Complaint)
        content, number = row
        yield Row(IMAGE_AND_LABEL, (content, FASHION_CLASSES[int(number)]))
