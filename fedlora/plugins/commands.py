"""`fedlora plugins`: what installed packages add, and the line by which a coordinator or a site allows it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from fedlora.listing import listing
from fedlora.plugins.gate import hash_of, package_of
from fedlora.plugins.names import Kind, registered, target
from fedlora.settings import SettingsError


def plugins(
    package: Annotated[
        str | None, typer.Argument(help="Print the line that allows this importable package, whatever it registers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List the strategies, tasks, sources of data and optimisers that installed packages add. None of it is run."""
    if package is not None:
        found = hash_of(package)
        if found is None:
            raise SettingsError(f"there is no package {package!r} in this Python; give its name as it is imported.")
        typer.echo(f"plugins: {json.dumps({package: found})}")
        return
    rows = found_here()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    if not rows:
        console.print("No installed package adds anything. A dotted name needs no registration: docs/plugins.md.")
        return
    shown = ("kind", "name", "is", "package", "version")
    for text in listing(shown, [[row[key] for key in shown] for row in rows], width=console.width):
        console.print(text, markup=False)
    console.print("\nFor server.yaml or a site's policy.yaml, once you have read the code:", markup=False)
    packages = {row["package"]: row["hash"] for row in rows}
    console.print(f"plugins: {json.dumps(packages)}", markup=False)


def found_here() -> list[dict[str, Any]]:
    """One row for everything that is registered."""
    return [
        {
            "kind": kind.noun,
            "name": name,
            "is": target(point),
            "package": package_of(target(point)),
            "version": point.dist.version if point.dist else "",
            "hash": hash_of(package_of(target(point))),
        }
        for kind in Kind
        for name, points in registered(kind).items()
        for point in points
    ]
