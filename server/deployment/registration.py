"""Makes the SuperLink accept exactly the approved keys, whatever it held before.

The SuperLink says which keys it has, so nothing rests on node ids that were written down in time: a key that is not
approved is cut off, even if the coordinator was killed between Flower's answer and its own note of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Protocol

from server.flower.control import Node, key_bytes
from server.settings import ServerSettings
from server.trust.provision import Registry, SiteEntry, read_registry, registry_lock, write_registry

BATCH = 50
"""Sites that are registered before the others' changes - a revocation - and runs are looked at again."""


class Fleet(Protocol):
    """What is used of `server.flower.control.Control`."""

    def nodes(self) -> Mapping[int, Node]: ...
    def register(self, public_key: str) -> int: ...
    def unregister(self, node: int) -> None: ...


def reconcile(settings: ServerSettings, fleet: Fleet) -> Registry:
    """Take one step, at most `BATCH` registrations; `is_reconciled` says of the result whether another is needed.

    Guarantee: keys that are not approved go first. sites.json is not locked while Flower is asked; a site that is
    revoked meanwhile is cut off by the next step. Errors: ControlError, with sites.json as it was or ahead by whole
    sites; safe to repeat.
    """
    registry = read_registry(settings)
    wanted = approved_keys(registry)
    present = {node.key: number for number, node in fleet.nodes().items()}
    for key in present.keys() - wanted.keys():
        fleet.unregister(present.pop(key))
    for key in islice(wanted.keys() - present.keys(), BATCH):
        present[key] = fleet.register(wanted[key])
    with registry_lock(settings):
        before = read_registry(settings)
        after = Registry({name: noted(site, present) for name, site in before.sites.items()})
        if after != before:
            write_registry(settings, after)
    return after


def approved_keys(registry: Registry) -> dict[bytes, str]:
    """Every approved key, in Flower's form and in ours."""
    keys = (registry.sites[name].public_key for name in registry.approved)
    return {key_bytes(key): key for key in keys}


def noted(site: SiteEntry, present: Mapping[bytes, int]) -> SiteEntry:
    """The site with the node that its key has now; what is no longer registered need not be cut off."""
    node = present.get(key_bytes(site.public_key)) if site.status == "approved" else None
    return site.model_copy(update={"node": node, "cut_off": still_there(site.cut_off, present.values())})


def still_there(nodes: Collection[int], present: Collection[int]) -> tuple[int, ...]:
    return tuple(node for node in nodes if node in present)
