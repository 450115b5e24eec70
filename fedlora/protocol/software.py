"""Versions of the software that made a result, or that a machine has."""

from __future__ import annotations

import platform
from importlib.metadata import version

from fedlora import __version__


def versions() -> dict[str, str]:
    """By package."""
    packages = ("torch", "flwr", "transformers", "peft")
    return {"fedlora": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}
