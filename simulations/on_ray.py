"""The same two apps on Flower's own simulation runtime, for those who outgrow one process: clients in Ray's actors.

Each actor loads the base model and the data once and keeps them for all the clients that it is given. With RAY_ADDRESS
in the environment the actors are a cluster's, otherwise this machine's. A site's folder is under the run's, which all
machines of a cluster share.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import ServerApp

from client.app import client_app
from client.site import Site
from fedlora.config import Recipe
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.plugins.gate import open_to
from fedlora.settings import SettingsError
from simulations.data.partition import Federation, federation
from simulations.sites import site_of


@dataclass(frozen=True)
class SiteFinder:
    """Finds a node's site in whatever process it runs: what travels to an actor is the recipe, not the data."""

    recipe_json: str
    names: tuple[str, ...]
    folder: Path
    compute: ComputeSettings

    def __call__(self, context: Context) -> Site:
        open_to("any")  # as the process that started this actor is
        name = self.names[int(context.node_config["partition-id"])]
        return site_of(data_of(self.recipe_json), name, self.folder, self.compute)


@lru_cache(maxsize=1)
def data_of(recipe_json: str) -> Federation:
    """The data of a recipe, read once per process."""
    recipe = Recipe.model_validate_json(recipe_json)
    return federation(recipe.data, model=recipe.model, seed=recipe.seed)


Config = dict[str, int | float | str | bytes | bool | list[int] | list[float] | list[str] | list[bytes] | list[bool]]
"""As Flower writes it."""


def run_on_ray(
    server: ServerApp, recipe: Recipe, names: Sequence[str], folder: Path, compute: ComputeSettings = OWN
) -> None:
    """Run the ServerApp on Flower's simulation runtime, on the cluster at RAY_ADDRESS if there is one."""
    if importlib.util.find_spec("ray") is None:
        raise SettingsError("--engine ray needs Ray; install it with: pip install 'fedlora[simulation]'")
    from flwr.simulation import run_simulation

    device = compute.placed(recipe).model.device
    inside = compute.model_copy(update={"device": in_actor(device)})
    client = client_app(SiteFinder(recipe.model_dump_json(), tuple(names), folder.resolve(), inside))
    actor = one_actor(device, clients_per_gpu=compute.clients_per_gpu)
    run_simulation(server, client, num_supernodes=len(names), backend_config={"client_resources": actor})


def in_actor(device: str) -> str:
    """Ray shows an actor the GPU that it was given, and no other: there `cuda:1` is the first, or does not exist.

    >>> in_actor("cuda:1"), in_actor("cpu")
    ('cuda', 'cpu')
    """
    return "cuda" if device.startswith("cuda") else device


def one_actor(device: str, *, clients_per_gpu: int = 1) -> Config:
    """Resources of a Ray actor, which answers one client at a time. Without a GPU of its own it would see none.

    >>> one_actor("cuda", clients_per_gpu=4)
    {'num_cpus': 1, 'num_gpus': 0.25}
    """
    return {"num_cpus": 1, "num_gpus": 1.0 / clients_per_gpu if device.startswith("cuda") else 0.0}
