"""A FlowerTune app as a recipe, with what it does where it has no setting: faithfully, or mended."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.config import Recipe
from fedlora.config.reading import put
from fedlora.nearest import did_you_mean
from fedlora.plain_yaml import yaml_text
from fedlora.settings import SettingsError, parse
from simulations.flowertune.settings import Found, mapped

DROPOUT, CLIP, LEAST_NODES = 0.075, 1.0, 2
"""What the app's models.py, transformers' Trainer and Flower's FedAvg have where nobody sets it."""
TESTED = 0.05


@dataclass(frozen=True)
class App:
    """What pyproject.toml says."""

    name: str
    found: Found
    clients: int | None


def app_in(folder: Path) -> App:
    """SettingsError where there is no app of FlowerTune's kind."""
    path = folder / "pyproject.toml" if folder.is_dir() else folder
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}.{did_you_mean(path)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from None
    flower = project.get("tool", {}).get("flwr", {})
    config = flower.get("app", {}).get("config")
    if not isinstance(config, Mapping) or "model" not in config:
        raise SettingsError(f"{path} has no [tool.flwr.app.config] with a model: it is no app of FlowerTune's kind.")
    return App(project.get("project", {}).get("name", "flowertune"), mapped(flat(config)), clients_in(flower))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted name, as Flower has them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def clients_in(flower: Mapping[str, Any]) -> int | None:
    """Of the federation that is the default, where pyproject.toml still has one."""
    federations = flower.get("federations", {})
    chosen = federations.get(federations.get("default", ""), {})
    number = chosen.get("options", {}).get("num-supernodes") if isinstance(chosen, Mapping) else None
    return number if isinstance(number, int) else None


def recipe_of(app: App, source: str, *, faithful: bool, clients: int | None) -> tuple[Recipe, str]:
    """The recipe, and its text as a file: only what is set, and why. SettingsError where a value cannot be."""
    if clients is None and app.clients is None:
        raise SettingsError(
            "--clients is missing: pyproject.toml names no federation with options.num-supernodes (a newer `flwr run` "
            "moves it to Flower's own config.toml). Give the number of clients, --clients 20."
        )
    steps, batch = app.found.settings["train.steps"], app.found.settings["train.batch_size"]
    dotted: dict[str, Any] = {
        "name": app.name,
        "model.task": "causal-lm",
        "adapter.dropout": DROPOUT,
        "data.source": source,
        "data.format": "prompt-completion" if faithful else "messages",
        "data.partition": "iid",
        "data.clients": clients or app.clients,
        "data.held_out": TESTED,
        "data.test_fraction": TESTED,
        "strategy.name": "fedit",
        "train.optimizer": "adamw",
        "train.max_grad_norm": CLIP,
        "rounds.min_clients": LEAST_NODES,
        **app.found.settings,
    }
    if faithful:
        dotted["data.max_examples"] = steps * batch
    values: dict[str, Any] = {}
    for name, value in dotted.items():
        put(values, name.split("."), value)
    recipe = parse(Recipe, values)
    return recipe, f"# {app.name}, from a FlowerTune app ({'faithful' if faithful else 'fixed'}).\n{yaml_text(values)}"


def silent(recipe: Recipe, *, faithful: bool) -> Iterator[tuple[str, str]]:
    """What the app does without a setting, and what this recipe does."""
    seen = recipe.train.counted_steps * recipe.train.batch_size
    yield (
        f"the same {seen} examples in every round, because each trainer begins with the same seed",
        f"kept: data.max_examples: {seen}" if faithful else "mended: every round draws its own",
    )
    yield (
        "answers without an end token, so that the model does not learn to stop",
        "cannot be kept: the end token is learnt here, always" if faithful else "mended: the end token is learnt",
    )
    yield (
        "Alpaca's text around an instruction, not the model's chat template",
        "kept: data.format: prompt-completion" if faithful else "mended: data.format: messages, by its own template",
    )
    yield f"a dropout of {DROPOUT} in models.py", f"kept: adapter.dropout: {recipe.adapter.dropout}"
    yield "PEFT's default targets, query and value", "kept: adapter.targets: attention"
    yield "Trainer clips a batch's gradient to 1", f"kept: train.max_grad_norm: {recipe.train.max_grad_norm}"
    yield "FedAvg asks two clients at least", f"kept: rounds.min_clients: {recipe.rounds.min_clients}"
    yield (
        "FedAvg averages A and B apart, which is not the average of B A",
        "kept, and its error reported each round; --set strategy.name=fedex or fedsvd is exact",
    )
    yield "nothing is held back for tests", f"not kept: {TESTED:.0%} is, by every client and from all"
