"""A recipe file, with every `--set key=value`, becomes a Recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedlora.config.recipe import Recipe
from fedlora.data.tables.reading import READERS
from fedlora.packaged import recipe_file
from fedlora.plain_yaml import Written, YamlError, read_scalar
from fedlora.settings import SettingsError, parse, read_mapping


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe file, or a packaged one by its name, with `key.path=value` overrides. SettingsError on any problem."""
    if Path(path).suffix.lower() in READERS.keys() - {".json"} and Path(path).exists():
        raise SettingsError(f"{path} is a data file, not a recipe. Write a recipe for it with: fedlora init {path}")
    values = read_mapping(recipe_file(path), f"the recipe {path}", may_be_empty=True)
    return parse(Recipe, override(values, overrides))


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with every `a.b=value` set; a value is taken as it was typed (`fedlora.plain_yaml.read_scalar`).

    >>> override({"train": {"lr": 1.0}}, ["train.lr=2e-3", "strategy.name=ffa"])
    {'train': {'lr': 0.002}, 'strategy': {'name': 'ffa'}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    lines = dict(values.lines) if isinstance(values, Written) else {}
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {item!r}: write it as key=value, for example --set train.lr=0.01.")
        *path, last = key.strip().split(".")
        here = result
        for part in path:
            inner = here.get(part)
            here[part] = dict(inner) if isinstance(inner, Mapping) else {}
            here = here[part]
        here[last] = _typed(item, text)
        lines = {place: line for place, line in lines.items() if place[: len(path) + 1] != (*path, last)}
        lines[*path, last] = None
    return Written(result, lines)


def _typed(item: str, text: str) -> Any:
    try:
        return read_scalar(text)
    except YamlError as error:
        raise SettingsError(f"--set {item!r}: {error}") from None
