"""Resources that sites have declared: resources.json beside sites.json, as settings for the planner."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from fedlora.config import DeviceSettings, Recipe
from fedlora.files import write_atomically
from fedlora.settings import SettingsError, parse
from server.requests.planner import Shape, ranks_of

log = logging.getLogger("fedlora.declared")

Declared = Mapping[str, DeviceSettings]


def read_declared(folder: Path) -> Declared:
    """By site; none where none has declared anything. SettingsError if the file is not as it was written."""
    path = folder / "resources.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise SettingsError(
            f"{path} is damaged; delete it: the sites declare their resources again in their next run."
        ) from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} is damaged; delete it: the sites declare their resources again in their next run.")
    return {site: parse(DeviceSettings, device, prefix=site) for site, device in values.items()}


def readable(folder: Path) -> Declared:
    """The declared resources, or none if the file is damaged: sites will declare them again, and no run should stop for
    that."""
    try:
        return read_declared(folder)
    except (SettingsError, TypeError) as error:
        log.warning("declared resources cannot be read and are ignored", extra={"why": str(error)})
        return {}


def remember(folder: Path, site: str, device: DeviceSettings) -> None:
    """Store a site's newest declaration in place of its older one. If that fails, the run continues."""
    known = {**readable(folder), site: device}
    plain = {name: known[name].model_dump(exclude_none=True) for name in sorted(known)}
    try:
        write_atomically(folder / "resources.json", json.dumps(plain, indent=2).encode())
    except OSError as error:
        log.warning("declared resources cannot be written", extra={"site": site, "why": str(error)})


def planned_for(recipe: Recipe, declared: Declared, shape: Shape) -> Recipe:
    """The recipe with what sites declared in its `devices`, for the planner; itself where it plans nothing.

    What the recipe says of a site stands. A declaration that not even one layer fits is left out, and said: one site's
    mistake is no reason for a run not to start.
    """
    if not recipe.devices:
        return recipe
    fitting = {site: device for site, device in declared.items() if _fits(site, device, shape, recipe)}
    return recipe.model_copy(update={"devices": {**fitting, **recipe.devices}})


def _fits(site: str, device: DeviceSettings, shape: Shape, recipe: Recipe) -> bool:
    try:
        ranks_of(device, shape, recipe.adapter, key=site)
    except SettingsError as error:
        log.warning("a site's declared resources are ignored", extra={"site": site, "why": str(error)})
        return False
    return True
