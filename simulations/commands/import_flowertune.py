"""`fedlora import-flowertune`: a FlowerTune app becomes a recipe, each of its settings mapped or named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fedlora.files import write_atomically
from fedlora.settings import SettingsError
from simulations.flowertune.recipe import app_in, recipe_of, silent
from simulations.flowertune.rows import write_rows
from strategies.compatibility import case_of, require_compatible


def import_flowertune(
    app: Annotated[Path, typer.Argument(help="The app's folder, with pyproject.toml in it.")],
    source: Annotated[
        str | None,
        typer.Option(help="Its data set as a file (CSV, JSON, JSONL, Parquet): columns instruction and output."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The recipe to write; rows are written beside it.")] = Path("recipe.yaml"),
    faithful: Annotated[
        bool, typer.Option("--faithful/--fixed", help="Keep what the app does without a setting, or mend it.")
    ] = False,
    clients: Annotated[int | None, typer.Option(min=1, help="Number of clients, if not the app's own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a recipe for the FlowerTune app in APP, and say what became of every key and every silent default."""
    rows = out.with_name(f"{out.stem}-rows.jsonl")
    if taken := [path for path in (out, rows) if path.exists() and not force]:
        raise SettingsError(f"{taken[0]} already exists; give --force to overwrite it, or another --out.")
    read = app_in(app)
    if source is None:
        raise SettingsError(
            f"--source is missing: the data set {read.found.dataset or 'of the app'} as a file. On a machine with a "
            f"network: hf download --repo-type dataset {read.found.dataset or 'NAME'}"
        )
    recipe, text = recipe_of(read, str(rows), faithful=faithful, clients=clients)
    require_compatible(case_of(recipe))
    number = write_rows(source, rows, faithful=faithful)
    write_atomically(out, text.encode())
    say("mapped", read.found.mapped.items())
    say("without effect here", read.found.without_effect.items())
    say("NOT mapped", read.found.not_mapped.items())
    say("silent defaults of such an app", silent(recipe, faithful=faithful))
    typer.echo(
        f"\n{rows} is written: {number} rows. {out} is written. Next:\n  fedlora simulate {out} --out runs/tuned"
    )
    typer.echo(
        f"  eval.py --peft-path=runs/tuned/peft_{recipe.rounds.count} --base-model-name-path={recipe.model.id}\n"
        "Bytes are counted as FlowerTune counts them, both ways: bytes_up and bytes_down in summary.json."
    )


def say(title: str, lines: Iterable[tuple[str, str]]) -> None:
    found = list(lines)
    typer.echo(f"\n{title}" if found else f"\n{title}: nothing")
    for what, became in found:
        typer.echo(f"  {what}\n      {became}")
