"""Write a recipe's clients as the files of deployed sites: the same examples in the same order, so that a deployment
can be compared with its simulation, number by number."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from fedlora.config import Recipe
from fedlora.data.rows import Row, read_whole
from fedlora.folder_names import folder_name
from simulations.data.partition import assign, columns_of


def write_site_files(recipe: Recipe, out: Path) -> list[str]:
    """<out>/held-out.csv and <out>/<client>/{train,test}.csv; returns the clients' names."""
    rows = read_whole(recipe.data.source, columns_of(recipe.data), labels=recipe.data.labels).rows
    held_out, clients = assign(rows, recipe.data, seed=recipe.seed)
    _write(out / "held-out.csv", (rows[index] for index in held_out))
    for name, (train, test) in clients.items():
        _write(out / folder_name(name) / "train.csv", (rows[index] for index in train))
        _write(out / folder_name(name) / "test.csv", (rows[index] for index in test))
    return list(clients)


def _write(path: Path, rows: Iterable[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows((row.text, row.label) for row in rows)
