"""Write a recipe's clients as the files of deployed sites: the same examples in the same order, so that a deployment
can be compared with its simulation, number by number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedlora.config import Recipe
from fedlora.data.row import Cell, Row, fingerprint
from fedlora.data.rows import read_whole
from fedlora.folder_names import folder_name
from simulations.data.partition import assign, columns_of


def write_site_files(recipe: Recipe, out: Path) -> list[str]:
    """<out>/held-out.csv and <out>/<client>/{train,test}.csv; returns the clients' names.

    Images lie in a folder beside their file, which names them."""
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
        writer.writerows([written(cell, path) for cell in row.cells] for row in rows)


def written(cell: Cell, table: Path) -> str:
    """A text as it is; of an image the path of its file, which is written."""
    if isinstance(cell, str):
        return cell
    image = table.with_name(f"{table.stem}-images") / fingerprint(cell)[:32]
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(cell)
    return str(image.relative_to(table.parent))
