"""`fedlora init`: look at a file, say what is in it, and write a recipe that runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column as Heading
from rich.table import Table

from fedlora.data.choose_columns import Chosen, choose
from fedlora.data.columns import Column, columns_in
from fedlora.data.packaged import is_packaged
from fedlora.data.rows import files_of
from fedlora.files import write_atomically
from fedlora.nearest import did_you_mean
from fedlora.settings import SettingsError
from fedlora.tasks.registry import task_named
from simulations.data.summary import lines, printable
from simulations.starting_recipe import Start, recipe_text, start

Named = Annotated[str | None, typer.Option(help="Column with the text; by default the longest, most varied one.")]


def init(
    source: Annotated[str, typer.Argument(help="CSV, TSV, JSON, JSONL or Parquet file, or a folder of such files.")],
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.yaml"),
    text: Named = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column with the class; by default one with few values, chosen by its name if possible."),
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="Column with the organisation of a row; by default one with such a name.")
    ] = None,
    model: Annotated[str, typer.Option(help="Base model: Hugging Face id, folder, GGUF file, or demo.")] = "demo",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Inspect SOURCE and write a recipe for it with its columns, classes, clients and text lengths, ready to run."""
    if is_packaged(source):
        raise SettingsError(
            f"{source} is the packaged corpus, which has recipes already: `fedlora recipes` lists them."
        )
    files_of(source)
    if out.exists() and not force:
        raise SettingsError(f"{out} already exists; give --force to overwrite it, or another --out.")
    if not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: there is no folder {out.parent}; create it first.{did_you_mean(out.parent)}")
    columns = columns_in(source)
    chosen = choose(columns, source, text=text, label=label, client=client)
    show(columns, source)
    begun = start(source, chosen, model=model)
    for line in said(chosen, begun):
        typer.echo(line)
    asked = {"--text": text, "--label": label, "--client": client, "--model": None if model == "demo" else model}
    given = [part for option, value in asked.items() if value is not None for part in (option, value)]
    typed = " ".join(printable(shlex.quote(part)) for part in ("fedlora", "init", source, *given))
    write_atomically(out, recipe_text(begun, chosen, typed=typed).encode())
    typer.echo(f"\n{out} is written. Next:\n  fedlora simulate {out}")
    typer.echo(f"  fedlora find-lr {out}      # if it learns slowly, or not at all")


def show(columns: Iterable[Column], source: str) -> None:
    """The columns and what each looks like."""
    names = [Heading(name, justify="right") for name in ("rows", "empty", "different", "words")]
    table = Table(
        Heading("column", overflow="fold"), "looks like", *names, box=SIMPLE, title=f"Columns of {printable(source)}"
    )
    for one in columns:
        counts = (one.cells, one.empty, one.distinct) if one.trouble is None else ("", "", "")
        table.add_row(printable(one.name), one.looks_like, *map(str, counts), f"{one.words:.0f}" if one.cells else "")
    Console(highlight=False, markup=False).print(table)


def said(chosen: Chosen, begun: Start) -> list[str]:
    """What was chosen and why, then what a run would say of the data."""
    found, recipe = begun.data, begun.recipe
    picked = [
        f"text      {printable(chosen.text.column.name)}: {chosen.text.why}",
        f"label     {printable(chosen.label.column.name)}: {chosen.label.why}",
        f"client    {begun.clients_why}",
    ]
    tested, metric = len(found.held_out), task_named(recipe.model.task).compare_by
    summary = lines(found.found, found.sizes, held_out=tested, batch_size=recipe.train.batch_size, metric=metric)
    return [*picked, *summary]
