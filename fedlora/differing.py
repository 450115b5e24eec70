"""What two recipes differ in: settings by their dotted names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedlora.config.reading import load, override
from fedlora.config.recipe import Recipe
from fedlora.settings import SettingsError

OF_A_RUN = ("name", "seed")
"""Settings that say which run it is, and not what is done in it."""

Changed = Mapping[str, Any]
"""Values by dotted names; None where a setting is not there any more."""


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names; an empty section is a value of its own.

    >>> list(flat({"train": {"lr": 0.1}, "devices": {}, "seed": 0}))
    [('train.lr', 0.1), ('devices', {}), ('seed', 0)]
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Each setting in which not all agree, with the value in every one of them; None where it is not there.

    >>> differences([{"train": {"lr": 0.1}, "seed": 0}, {"train": {"lr": 0.2}, "seed": 0}])
    {'train.lr': [0.1, 0.2]}
    """
    found = [dict(flat(recipe)) for recipe in recipes]
    names = dict.fromkeys(name for one in found for name in one)
    rows = {name: [one.get(name) for one in found] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def changed(before: Recipe, after: Recipe) -> dict[str, Any]:
    """What was changed of a recipe to get another, but for its name and seed."""
    apart = differences([before.model_dump(mode="json"), after.model_dump(mode="json")])
    return {name: values[1] for name, values in apart.items() if name not in OF_A_RUN}


def changed_by(recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What overrides set of a recipe file, the recipe's own value again included, and what that changes besides."""
    after = load(recipe, overrides)
    values = dict(flat(after.model_dump(mode="json")))
    asked = {name: values.get(name, value) for name, value in flat(override({}, overrides)) if name not in OF_A_RUN}
    try:
        return {**asked, **changed(load(recipe), after)}
    except SettingsError:  # the file alone is no whole recipe
        return asked


def own(runs: Sequence[Changed]) -> list[dict[str, Any]]:
    """Of each run what sets it apart from the others: what all of several have alike is left out.

    >>> own([{"data.held_out": 800, "train.lr": 0.1}, {"data.held_out": 800, "train.lr": 0.2}])
    [{'train.lr': 0.1}, {'train.lr': 0.2}]
    >>> own([{"train.lr": 0.1}])
    [{'train.lr': 0.1}]
    """
    if not runs:
        return []
    first = runs[0]
    common = {name for name in first if all(name in run and run[name] == first[name] for run in runs)}
    left_out = common if len(runs) > 1 else set()
    return [{name: value for name, value in run.items() if name not in left_out} for run in runs]


def words(settings: Changed) -> str:
    """
    >>> words({"train.lr": 0.004, "wire.codec": "int4", "train.steps": None})
    'train.lr=0.004 wire.codec=int4 train.steps=null'
    """
    return " ".join(f"{name}={value_words(value)}" for name, value in settings.items())


def value_words(value: Any) -> str:
    """A value as one writes it behind `--set`."""
    return value if isinstance(value, str) else json.dumps(value)
