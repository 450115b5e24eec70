"""Settings of a recipe that are the machine's now (`fedlora.config.compute`): taken for one version more, with a note.

They stay in what travels, at what the recipe says: sites of version 0.1.0 read them there, and a task keeps its digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fedlora.config.model import ModelSettings
from fedlora.config.recipe import Recipe
from fedlora.config.train import TrainSettings
from fedlora.plain_yaml import yaml_text

FORMER = {"model.device": "device", "train.microbatch_size": "microbatch"}
"""A recipe's former setting, and the machine's in its place."""
DEFAULTS = {"model.device": ModelSettings().device, "train.microbatch_size": TrainSettings().microbatch_size}


def former_remarks(recipe: Recipe) -> Iterator[str]:
    """A note for every former setting that does something in this recipe."""
    for key, own in FORMER.items():
        value = _value(recipe, key)
        if value != DEFAULTS[key]:
            yield (
                f"{key}={value} in a recipe is on its way out: how a machine computes is its own matter. Write "
                f"--{own} {value} on the command line, and `{own}: {value}` in client.yaml and server.yaml. For one "
                "version more the recipe's holds where a machine says nothing."
            )


def recipe_text(recipe: Recipe) -> str:
    """The recipe in full, as YAML for people."""
    return yaml_text(without_former(recipe.model_dump(mode="json")))


def without_former(values: Mapping[str, Any]) -> dict[str, Any]:
    """A whole recipe's values without former settings that say nothing."""
    kept = dict(values)
    for key, default in DEFAULTS.items():
        section, name = key.split(".")
        if kept[section][name] == default:
            kept[section] = {other: value for other, value in kept[section].items() if other != name}
    return kept


def _value(recipe: Recipe, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(recipe, section), name)
