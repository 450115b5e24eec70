"""What a plug-in's name stands for, imported where the gate is open."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from fedlora.nearest import nearest
from fedlora.plugins.gate import opened_to, require_open
from fedlora.plugins.names import Kind, target_of
from fedlora.settings import SettingsError


def load_plug_in(kind: Kind, name: str) -> Any:
    """The object of that name. KeyError for a name that nobody added.

    SettingsError where this process is not open to its package, its module cannot be imported, or has no such object.
    """
    target = target_of(kind, name)
    if target is None:
        raise KeyError(name)
    require_open(kind, name, target)
    module_name, _, attribute = target.partition(":")
    said = f"{kind.setting}={name!r}"
    try:
        with modules_of_this_folder():
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{said}: {error}. Is it installed in this Python, or in the folder that the command was started in?"
        ) from None
    except Exception as error:  # whatever a stranger's module raises
        raise SettingsError(f"{said}: {module_name} cannot be imported ({type(error).__name__}: {error}).") from error
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = nearest(part, [other for other in vars(module) if not other.startswith("_")])
            raise SettingsError(
                f"{said}: {module_name} has no {part}" + (f"; did you mean {module_name}:{near}?" if near else ".")
            )
        found = getattr(found, part)
    return found


@contextmanager
def modules_of_this_folder() -> Iterator[None]:
    """The folder that a person works in counts, behind everything that is installed, and only while their own module is
    imported: a folder in it that is called like a package would pass for that package. Never for a service."""
    here = str(Path.cwd())
    if opened_to() != "any" or here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def wrong_kind(kind: Kind, name: str, found: object, wanted: str) -> SettingsError:
    """The error for a plug-in that is something else than its kind."""
    what = getattr(found, "__name__", type(found).__name__)
    return SettingsError(
        f"{kind.setting}={name!r} is {what}, which is no {kind.noun}: that is {wanted} (docs/plugins.md)."
    )
