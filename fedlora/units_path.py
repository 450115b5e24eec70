"""Where `server`, `client`, `strategies` and `simulations` are: only `fedlora` lives in site-packages.

A wheel carries them as data in `fedlora/units`; in a checkout they stand beside `fedlora`. Either way their folder goes
first on `sys.path`, and on PYTHONPATH for the processes that are started from here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def units_folder() -> Path:
    """The folder that holds the four packages."""
    package = Path(__file__).resolve().parent
    inside = package / "units"
    return inside if inside.is_dir() else package.parent


def add_units_to_path() -> None:
    """Put the folder first, once."""
    folder = str(units_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    inherited = os.environ.get("PYTHONPATH", "")
    if folder not in inherited.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(part for part in (folder, inherited) if part)
