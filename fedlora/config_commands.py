"""`fedlora config`: check a recipe; explain every setting."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer
import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from fedlora.config import Recipe, load

app = typer.Typer(no_args_is_help=True, help="Check a recipe, or explain every setting.")


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="Recipe file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, as in a run.")] = None,
) -> None:
    """Read RECIPE and say what is wrong with it, or print it as resolved."""
    resolved = load(recipe, overrides or [])
    typer.echo(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False), nl=False)


@app.command()
def show(section: Annotated[str | None, typer.Argument(help="Only this section, e.g. train.")] = None) -> None:
    """Print every setting with its default and its meaning."""
    table = Table("setting", "default", "meaning", show_lines=False)
    for key, default, meaning in settings_of(Recipe):
        if section is None or key.startswith(section):
            table.add_row(key, default, meaning)
    Console().print(table)


def settings_of(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting, sections opened."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = section_model(field.annotation)
        if inner is not None:
            rows += settings_of(inner, f"{key}.")
        else:
            rows.append((key, yaml.safe_dump(field.default).splitlines()[0], field.description or ""))
    return rows


def section_model(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
