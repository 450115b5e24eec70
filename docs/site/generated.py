"""The pages that are made of the code: every setting, every command, every strategy, and the schema of recipes.

Nothing of it is written into the repository, so it cannot say what the code does not.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import click

from fedlora.cli import COMMANDS, load_command
from fedlora.config.recipe import recipe_schema
from strategies.registry import STRATEGIES


def settings_page() -> str:
    """Every setting of a recipe, a section a table."""
    schema = recipe_schema()
    lines = [
        "# Settings of a recipe",
        "",
        f"[JSON schema](../{SCHEMA}) for editors; `fedlora config show` says the same.",
        "",
    ]
    for name, field in schema["properties"].items():
        section = section_of(schema, field)
        lines += [f"## {name}", "", *paragraphs(field.get("description") or (section or {}).get("description", "")), ""]
        lines += (
            [*table(schema, section, name), ""] if section else [f"Default: `{json.dumps(field.get('default'))}`", ""]
        )
    return "\n".join(lines)


def section_of(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any] | None:
    """The model that a field refers to, if it is one."""
    for option in [field, *field.get("anyOf", [])]:
        if "$ref" in option:
            model: dict[str, Any] = schema["$defs"][option["$ref"].rpartition("/")[2]]
            return model if "properties" in model else None
    return None


def table(schema: dict[str, Any], section: dict[str, Any], path: str) -> Iterator[str]:
    """One row a setting; a section within a section gives its settings with the whole path."""
    yield from ("| setting | default | meaning |", "|---|---|---|")
    yield from rows(schema, section, path)


def rows(schema: dict[str, Any], section: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in section["properties"].items():
        default = f"`{json.dumps(field['default'], ensure_ascii=False)}`" if "default" in field else "required"
        yield f"| `{path}.{name}` | {default} | {cell(field.get('description', ''))} |"
        if (inner := section_of(schema, field)) is not None:
            yield from rows(schema, inner, f"{path}.{name}")


def commands_page() -> str:
    """Every command with its arguments and options, as --help says them."""
    lines = ["# Commands", ""]
    for name in COMMANDS:
        lines += [
            line for path, command in walked(f"fedlora {name}", load_command(name)) for line in said(path, command)
        ]
    return "\n".join(lines)


def walked(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from walked(f"{path} {name}", inner)


def said(path: str, command: click.Command) -> Iterator[str]:
    depth = "#" * min(path.count(" ") + 1, 4)
    yield from (f"{depth} {path}", "", *paragraphs(command.help or ""), "")
    parameters = [one for one in command.params if not getattr(one, "hidden", False) and one.name not in COMPLETION]
    if parameters:
        yield from ("| | |", "|---|---|")
        for one in parameters:
            names = one.human_readable_name.upper() if isinstance(one, click.Argument) else ", ".join(one.opts)
            yield f"| `{names}` | {cell(getattr(one, 'help', None) or '')} |"
        yield ""


def strategies_page() -> str:
    """Every strategy by the name that a recipe gives it, with what its own file says."""
    lines = ["# Strategies", "", "What goes with what is [a table of its own](../combinations.md).", ""]
    for name, strategy in STRATEGIES.items():
        lines += [f"## {name}", "", *paragraphs(inspect.getdoc(strategy) or ""), ""]
    return "\n".join(lines)


def paragraphs(text: str) -> list[str]:
    """A docstring as Markdown: its blank lines are paragraphs, and angle brackets are no tags."""
    return [line.strip().replace("<", "&lt;") for line in inspect.cleandoc(text).splitlines()]


def cell(text: str) -> str:
    """One line, in which a bar does not end a cell."""
    return " ".join(paragraphs(text)).replace("|", "\\|")


SCHEMA = "recipe.schema.json"
COMPLETION = ("install_completion", "show_completion")
PAGES: dict[str, Callable[[], str]] = {
    SCHEMA: lambda: json.dumps(recipe_schema(), indent=1, ensure_ascii=False),
    "reference/settings.md": settings_page,
    "reference/commands.md": commands_page,
    "reference/strategies.md": strategies_page,
}
