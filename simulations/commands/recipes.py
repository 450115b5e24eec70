"""`fedlora config show`: every setting, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Column, Table

from fedlora.config import Recipe
from fedlora.config.former import FORMER
from fedlora.packaged import packaged, sentence_of
from fedlora.plain_yaml import yaml_text
from fedlora.plugins.names import Kind, registered
from fedlora.settings import SettingsError, nearest

Section = Annotated[str | None, typer.Argument(help="Only this section or setting, e.g. train or train.lr.")]


def show(section: Section = None) -> None:
    """Print every setting with its default and its meaning."""
    table = Table(Column("setting", no_wrap=True), "default", "meaning")
    known = [row for row in settings_of(Recipe) if row[0] not in FORMER]
    rows = [row for row in known if section is None or f"{row[0]}.".startswith(f"{section}.")]
    if section is not None and not rows:
        near = nearest(section, [row[0] for row in known]) if "." in section else None
        if near is not None:
            raise SettingsError(f"there is no setting {section!r}; did you mean {near}?")
        sections = ", ".join(dict.fromkeys(row[0].partition(".")[0] for row in known))
        raise SettingsError(f"there is no section {section!r}; there are: {sections}.")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def recipes() -> None:
    """List the packaged recipes. Their names can be used wherever a recipe file is expected."""
    table = Table(Column("recipe", no_wrap=True), "what it is")
    for name, path in packaged().items():
        table.add_row(name, sentence_of(path))
    Console().print(table)
    typer.echo("To start from one: fedlora config check NAME > recipe.yaml")


def settings_of(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str]]:
    """(key, default, meaning) of every setting, sections opened."""
    rows: list[tuple[str, str, str]] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        inner = section_model(field.annotation)
        if inner is not None:
            rows += settings_of(inner, f"{key}.")
        else:
            rows.append((key, default_of(field), (field.description or "") + installed_for(key)))
    return rows


def installed_for(key: str) -> str:
    """Names that installed packages add to what a setting takes (docs/plugins.md); mostly nothing."""
    found = [name for kind in Kind if kind.setting == key for name in registered(kind)]
    return f" Installed here: {', '.join(found)}." if found else ""


def default_of(field: FieldInfo) -> str:
    """The default as one would write it in a recipe."""
    if field.is_required():
        return "(required)"
    value = TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json")
    return yaml_text(value, flow=True).splitlines()[0]


def section_model(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
