"""The rows that a simulation keeps apart, as a file: what its summary's figures are of."""

from __future__ import annotations

import csv
from pathlib import Path

from fedlora.config import Recipe
from fedlora.data.rows import read_whole
from simulations.data.partition import assign, columns_of


def save_held_out(recipe: Recipe, file: Path) -> Path:
    """Texts with their classes and clients."""
    columns = columns_of(recipe.data, recipe.model.task)
    rows = read_whole(recipe.data.source, columns).rows
    shared, _ = assign(rows, recipe.data, seed=recipe.seed)
    with file.open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["text", "label", "client"])
        table.writerows([rows[index]["text"], rows[index]["label"], rows[index].client] for index in shared)
    return file
