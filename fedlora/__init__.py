"""What both sides of a federation agree on: vocabulary, adapters, wire format, privacy. Never imports Flower.

In Python, each name found where it stands when it is first asked for (`fedlora/python`):

    simulate     run a recipe on files or on objects of this process      -> its Result
    Recipe       every setting of a run
    load         an adapter in its base model, with `predict`
    compare      runs side by side
    federate     an existing transformers or TRL trainer as a client
    strategies   how updates can be combined
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlora.config import Recipe
    from fedlora.federated import federate
    from fedlora.python.loaded import load
    from fedlora.python.running import compare, simulate
    from fedlora.python.strategies import strategies

__version__ = "0.2.0.dev0"
__all__ = ["Recipe", "compare", "federate", "load", "simulate", "strategies"]

_PLACES = {
    "Recipe": "fedlora.config",
    "compare": "fedlora.python.running",
    "federate": "fedlora.federated",
    "load": "fedlora.python.loaded",
    "simulate": "fedlora.python.running",
    "strategies": "fedlora.python.strategies",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"fedlora has no {name!r}; it has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "__doc__", "__all__"]
