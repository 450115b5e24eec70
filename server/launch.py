"""Starting runs for somebody who does not sit at a terminal: a recipe, validated; what it will cost; then the run.

A folder of runs that belongs to a deployed coordinator (server.yaml beside it) gets a submission, which the coordinator
takes up; any other gets a simulation, a process of its own that outlives whoever asked for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fedlora.config import Recipe, load
from fedlora.enrolment import require_name
from fedlora.files import write_atomically
from fedlora.privacy.plan import planned_epsilon as epsilon_at_most
from fedlora.settings import SettingsError, parse
from fedlora.units_path import units_folder
from server.gradient_recipe import gradient_recipe
from server.settings import ServerSettings, load_server
from server.submissions import resume as go_on
from server.submissions import submit

PLAN_S = 120.0
SIZES = ("bytes_up", "bytes_down", "dense_fp32")


@dataclass(frozen=True)
class Launchpad:
    """Where runs are started: a folder, the store that they are written to, and the coordinator if there is one."""

    runs: Path
    store: str
    deployment: ServerSettings | None = None


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


def launchpad(store: str) -> Launchpad | None:
    """The folder of runs that belongs to a store in a file; None for a database elsewhere, which belongs to none."""
    path = Path(store.removeprefix("sqlite:///"))
    if "://" in str(path) or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return None
    folder = path.resolve().parent
    settings = folder / "server.yaml"
    if settings.exists():
        deployment = load_server(settings)
        return Launchpad(deployment.runs, store, deployment)
    return Launchpad(folder, store)


def packaged_recipes() -> dict[str, str]:
    """The text of every packaged recipe, by name."""
    folder = units_folder() / "simulations" / "recipes"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}


def read_recipe(text: str) -> Recipe:
    """A recipe as somebody wrote it; SettingsError says what is wrong, all at once."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"the recipe is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"a recipe holds `key: value` settings, not a {type(values).__name__}.")
    return parse(Recipe, values)


def planned(recipe: Recipe, *, examples: int, folder: Path) -> Plan:
    """Bytes of really packed messages (`fedlora wire plan`), and the ε of a site with so many training examples."""
    spent, first = (price(recipe, examples=examples) for price in (planned_epsilon, first_step_epsilon))
    path = folder / "recipe.yaml"
    path.write_text(_yaml(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "fedlora", "wire", "plan", str(path), "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PLAN_S, env=_environment(), check=False)
    if ran.returncode != 0:
        raise SettingsError(f"the bytes cannot be planned: {ran.stderr.strip().removeprefix('error: ')}")
    sizes = json.loads(ran.stdout)
    up, down, dense = (int(sizes[name]) for name in SIZES)
    return Plan(
        rounds=recipe.rounds.count,
        bytes_up=up,
        bytes_down=down,
        dense=dense,
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
        train = train.model_copy(update={"steps": train.steps * _clients(recipe)})
    try:
        return epsilon_at_most(own, privacy=recipe.privacy, train=train, rounds=recipe.rounds.count)
    except ValueError as error:  # UnreachableError is one
        raise SettingsError(f"a site of {examples} training examples would refuse: {error}") from None


def _clients(recipe: Recipe) -> int:
    """Of mode `pooled`, which takes as many steps as all of them together."""
    if recipe.data.partition != "natural" and recipe.data.clients is not None:
        return recipe.data.clients
    raise SettingsError(
        "mode=pooled takes the steps of all clients together, and how many the data hold is not known before they are "
        "read; plan a private run with mode=federated, or set data.partition and data.clients."
    )


def first_step_epsilon(recipe: Recipe, *, examples: int) -> float | None:
    """The same for the round that asks sites for their gradients; None where there is none, or without privacy."""
    first = recipe.adapter.first_step
    if recipe.adapter.init != "client-gradients" or first is None or first.epsilon is None:
        return None
    return planned_epsilon(gradient_recipe(recipe, width=1), examples=examples)


def start(pad: Launchpad, recipe: Recipe, *, name: str) -> Path:
    """Start a run under a new name; returns its folder."""
    require_name(name, what="run")
    if pad.deployment is not None:
        if recipe.mode != "federated":
            raise SettingsError(f"mode={recipe.mode!r} is a simulation's reference; a deployed run is `federated`.")
        return submit(pad.deployment, recipe, name=name)
    folder = pad.runs / name
    if folder.exists():
        raise SettingsError(f"there is already a run {name!r} in {pad.runs}; choose another name.")
    folder.mkdir(parents=True)
    _simulate(pad, folder, recipe, [])
    return folder


def resume(pad: Launchpad, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Go on with a run that was stopped, failed or died, from its checkpoint."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not on this machine; resume the run where it is.")
    if pad.deployment is not None:
        go_on(folder)
        return
    if not (folder / "checkpoint.safetensors").exists():
        raise SettingsError(f"{folder} holds no checkpoint: the run ended before its first round. Start it again.")
    _simulate(pad, folder, parse(Recipe, recipe), ["--resume"])


def _simulate(pad: Launchpad, folder: Path, recipe: Recipe, options: list[str]) -> None:
    path = folder / "recipe.yaml"
    write_atomically(path, _yaml(recipe).encode())
    load(path)  # what was written is what was validated
    command = [sys.executable, "-m", "fedlora", "simulate", str(path), "--out", str(folder), *options]
    environment = {**_environment(), "FEDLORA_STORE": pad.store}
    with (folder / "run.log").open("ab") as log:
        subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )


def _environment() -> dict[str, str]:
    """This process's own, and our packages importable."""
    python_path = os.pathsep.join([str(units_folder()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    return {**os.environ, "PYTHONPATH": python_path.rstrip(os.pathsep)}


def _yaml(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
