"""The Flower app that a coordinator ships for a run: configuration only, for the record; no code."""

from __future__ import annotations

from pathlib import Path

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "Configuration of a fedlora run; every site runs the client that it installed"
license = "Apache-2.0"
dependencies = ["flwr>=1.39,<1.40"]

[tool.flwr.app]
publisher = "fedlora"

[tool.flwr.app.components]
serverapp = "server.deployed:app"
clientapp = "client.deployed:app"

[tool.flwr.app.config]
run = "{run}"
"""


def write_bundle(folder: Path, *, run: str, recipe: bytes) -> None:
    """The Flower app that is shipped: configuration only, for the record; no code."""
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=f"fedlora-{run}"[:32].rstrip("-"), run=run))
    (folder / "recipe.yaml").write_bytes(recipe)
