"""Starting runs from the dashboard: validate a recipe, show its cost, then start the run.

A folder of runs that belongs to a deployed coordinator (server.yaml beside it) gets a submission, which the coordinator
takes up; any other gets a simulation, a process of its own that outlives whoever asked for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.config import DataSettings, Recipe, load
from fedlora.config.former import recipe_text
from fedlora.deployment.enrolment import require_name
from fedlora.files import write_atomically
from fedlora.packaged import packaged
from fedlora.plugins.gate import open_to
from fedlora.privacy.plan import planned_epsilon as epsilon_at_most
from fedlora.settings import SettingsError, mapping_in, parse
from server.gradient_recipe import gradient_recipe
from server.runs.held_out import known_classes
from server.runs.planning import child_environment, sizes
from server.runs.preflight import look_before, place_of
from server.runs.recipe_files import confined
from server.runs.submissions import resume as go_on
from server.runs.submissions import submit
from server.settings import ServerSettings, load_server
from strategies.compatibility import case_of, require_sensible


@dataclass(frozen=True)
class RunLauncher:
    """Where runs are started: a folder, the store that they are written to, and the coordinator if there is one."""

    runs: Path
    store: str
    deployment: ServerSettings | None = None
    files: Path | None = None
    """The folder below which recipes may name data and models; None: packaged data and models of the hub alone."""


@dataclass(frozen=True)
class Plan:
    """What a run would cost, before it starts. Bytes are of one client and round."""

    rounds: int
    bytes_up: int
    bytes_down: int
    dense: int
    epsilon: float | None
    """Of one site over the whole run, at most; None without privacy."""
    first_step_epsilon: float | None
    """Of the round before it that asks for gradients, at most; None where there is none."""
    delta: float


def launchpad(store: str) -> RunLauncher | None:
    """The folder of runs that belongs to a store in a file; None for a database elsewhere, which belongs to none."""
    path = Path(store.removeprefix("sqlite:///"))
    if "://" in str(path) or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return None
    folder = path.resolve().parent
    settings = folder / "server.yaml"
    if settings.exists():
        deployment = load_server(settings)
        open_to(deployment.plugins)
        return RunLauncher(deployment.runs, store, deployment)
    return RunLauncher(folder, str(path.resolve()))


def packaged_recipes() -> dict[str, str]:
    """The text of every packaged recipe, by name."""
    return {name: path.read_text(encoding="utf-8") for name, path in packaged().items()}


def read_recipe(text: str) -> Recipe:
    """A recipe as somebody wrote it; SettingsError says what is wrong, all at once."""
    return parse(Recipe, mapping_in(text, "the recipe"))


def planned(pad: RunLauncher, recipe: Recipe, *, examples: int) -> Plan:
    """Bytes of really packed messages (`fedlora wire plan`), and the ε of a site with so many training examples."""
    asked = confined(recipe, pad.files, simulated=pad.deployment is None)
    require_sensible(case_of(recipe, place_of(pad.deployment)))
    spent, first = (price(recipe, examples=examples) for price in (planned_epsilon, first_step_epsilon))
    if pad.deployment is not None:
        asked = asked.model_copy(update={"data": DataSettings(labels=known_classes(pad.deployment, recipe) or None)})
    found = sizes(asked)
    return Plan(
        rounds=recipe.rounds.count,
        bytes_up=found["bytes_up"],
        bytes_down=found["bytes_down"],
        dense=found["dense_fp32"],
        epsilon=spent,
        first_step_epsilon=first,
        delta=recipe.privacy.delta,
    )


def planned_epsilon(recipe: Recipe, *, examples: int) -> float | None:
    """ε of a site with so many training examples, by the terms on which it is charged; None without privacy.

    A simulation's `data.max_examples` counts, and every spare round. The adapter's first step is a run of its own.
    """
    if not recipe.privacy.enabled:
        return None
    own, train = min(examples, recipe.data.max_examples or examples), recipe.train
    if recipe.mode == "pooled":
        train = train.model_copy(update={"steps": train.counted_steps * _clients(recipe)})
    try:
        return epsilon_at_most(own, privacy=recipe.privacy, train=train, rounds=recipe.rounds.count)
    except ValueError as error:  # UnreachableError is one
        raise SettingsError(f"a site of {examples} training examples would refuse: {error}") from None


def _clients(recipe: Recipe) -> int:
    """Of mode `pooled`, which takes as many steps as all of them together."""
    if recipe.data.partition != "natural" and recipe.data.clients is not None:
        return recipe.data.clients
    raise SettingsError(
        "mode=pooled takes the steps of all clients together, and their number is not known before the "
        "data are read; plan a private run with mode=federated, or set data.partition and data.clients."
    )


def first_step_epsilon(recipe: Recipe, *, examples: int) -> float | None:
    """The same for the round that asks sites for their gradients; None where there is none, or without privacy."""
    first = recipe.adapter.first_step
    if recipe.adapter.init != "client-gradients" or first is None or first.epsilon is None:
        return None
    return planned_epsilon(gradient_recipe(recipe, width=1), examples=examples)


def start(pad: RunLauncher, recipe: Recipe, *, name: str) -> Path:
    """Start a run under a new name; returns its folder."""
    require_name(name, what="run")
    recipe = confined(recipe, pad.files, simulated=pad.deployment is None)
    if pad.deployment is not None:
        look_before(pad.deployment, recipe)
        return submit(pad.deployment, recipe, name=name)
    require_sensible(case_of(recipe))
    folder = pad.runs / name
    if folder.exists():
        raise SettingsError(f"there is already a run {name!r} in {pad.runs}; choose another name.")
    folder.mkdir(parents=True)
    _simulate(pad, folder, recipe, [])
    return folder


def resume(pad: RunLauncher, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Go on with a run that was stopped, failed or died, from its checkpoint."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not on this machine; resume the run on the machine that has it.")
    if pad.deployment is not None:
        go_on(folder)
        return
    if not (folder / "checkpoint.safetensors").exists():
        raise SettingsError(f"{folder} contains no checkpoint: the run ended before its first round. Start it again.")
    _simulate(pad, folder, confined(parse(Recipe, recipe), pad.files, simulated=True), ["--resume"])


def _simulate(pad: RunLauncher, folder: Path, recipe: Recipe, options: list[str]) -> None:
    path = folder / "recipe.yaml"
    write_atomically(path, recipe_text(recipe).encode())
    load(path)  # what was written is what was validated
    command = [sys.executable, "-m", "fedlora", "simulate", str(path), "--out", str(folder), *options]
    environment = {**child_environment(), "FEDLORA_STORE": pad.store}
    with (folder / "run.log").open("ab") as log:
        subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder,  # no relative name means a file of whoever started the dashboard
            env=environment,
            start_new_session=True,
        )
