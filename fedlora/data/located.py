"""Where the files of an installed package are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedlora.settings import SettingsError


def file_of(package: str, name: str, *, install: str) -> Path:
    """A file of an installed package, which is not imported; SettingsError where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"these data are not installed; install them with: {install}")
    return Path(next(iter(found.submodule_search_locations))) / name
