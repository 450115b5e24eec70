"""Write a recipe's clients as the files of deployed sites: the same examples in the same order, so that a deployment
can be compared with its simulation, number by number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedlora.config import Recipe
from fedlora.data.row import Row
from fedlora.data.rows import read_whole
from fedlora.folder_names import folder_name
from simulations.data.partition import assign, columns_of


def write_site_files(recipe: Recipe, out: Path) -> list[str]:
    """<out>/held-out.csv and <out>/<client>/{train,test}.csv; returns the clients' names."""
    rows = read_whole(recipe.data.source, columns_of(recipe.data, recipe.model.task), labels=recipe.data.labels).rows
    held_out, clients = assign(rows, recipe.data, seed=recipe.seed)
    write_rows(out / "held-out.csv", [rows[index] for index in held_out])
    for name, (train, test) in clients.items():
        write_rows(out / folder_name(name) / "train.csv", [rows[index] for index in train])
        write_rows(out / folder_name(name) / "test.csv", [rows[index] for index in test])
    return list(clients)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Rows of one form, as a file of a site."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0].form.columns)
        writer.writerows(row.cells for row in rows)
