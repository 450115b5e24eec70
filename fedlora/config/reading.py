"""A recipe file, with every `--set key=value`, becomes a Recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        place = tuple(key.strip().split("."))
        put(result, place, _typed(item, text))
        lines = {other: line for other, line in lines.items() if other[: len(place)] != place}
        lines[place] = None
    return Written(result, lines)


def put(values: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Set `a.b` of nested settings, `place` in its parts; sections on the way are copied, so that nobody else's change.

    >>> values = {"train": {"lr": 1.0}}
    >>> put(values, ("train", "steps"), 3)
    >>> values
    {'train': {'lr': 1.0, 'steps': 3}}
    """
    *path, last = place
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    values[last] = value


def _typed(item: str, text: str) -> Any:
    try:
        return read_scalar(text)
    except YamlError as error:
        raise SettingsError(f"--set {item!r}: {error}") from None
