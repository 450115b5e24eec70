"""A recipe file, with every `--set key=value`, becomes a Recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedlora.config.recipe import Recipe
from fedlora.settings import SettingsError, parse, read_mapping


def load(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `key.path=value` overrides (values are YAML). SettingsError on any problem."""
    values = read_mapping(Path(path), f"the recipe {path}", may_be_empty=True)
    return parse(Recipe, override(values, overrides))


def override(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with every `a.b=value` set.

    >>> override({"train": {"lr": 1.0}}, ["train.lr=2e-3", "strategy.name=ffa"])
    {'train': {'lr': 0.002}, 'strategy': {'name': 'ffa'}}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
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
        here[last] = _scalar(text)
    return result


def _scalar(text: str) -> Any:
    """YAML, but 1e-3 is a number (YAML 1.1 wants 1.0e-3)."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
