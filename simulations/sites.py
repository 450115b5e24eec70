"""Simulated sites: one client's part of the data, and a folder of its own inside the run's."""

from __future__ import annotations

from pathlib import Path

from client.site import Parts, Site
from fedlora.config.compute import OWN, ComputeSettings
from fedlora.folder_names import folder_name
from fedlora.privacy.policy import SIMULATION
from simulations.data.partition import Federation


def site_of(data: Federation, name: str, folder: Path, compute: ComputeSettings = OWN) -> Site:
    """The site of the client called `name`, on a machine that computes so."""
    part, own = data.clients[name], folder / "sites" / folder_name(name)
    return Site(name, Parts(part.train, part.test), own, policy=SIMULATION, compute=compute)
