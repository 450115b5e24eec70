"""The base model stays loaded: once per process, whatever the number of rounds, runs and simulated clients."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from weakref import WeakSet

from torch import nn

from fedlora.adapters import fold, inject, read
from fedlora.adapters.shared import Shared
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.devices.draws import on_cuda
from fedlora.devices.memory import make_room
from fedlora.lowrank import Product
from fedlora.models.base import Base, load_base
from fedlora.models.named import named_base


class LoadedModel:
    """One adapted base model in memory, and the version that its frozen weights are at."""

    def __init__(self, base: Base, adapter: AdapterSettings, settings: ModelSettings) -> None:
        self.base = base
        self.named = named_base(settings, fingerprint=base.fingerprint, model=base.model)
        """The base as somebody on another machine finds it."""
        inject(base.model, adapter)
        self.template = read(base.model)
        """Names and shapes of the whole adapter, whatever ranks the model was last used at."""
        self._folded: tuple[str, int] | None = None

    @property
    def model(self) -> nn.Module:
        return self.base.model

    def at_version(self, run: str, version: int, total: Mapping[str, Product]) -> None:
        """Make the frozen weights those of `version` in `run`, W0 plus the sum of its residuals, unless they are."""
        if self._folded != (run, version) and (self._folded is not None or version > 0):
            fold(self.model, total)
        self._folded = (run, version)


_HELD: WeakSet[LoadedModel] = WeakSet()
"""Those of this process that somebody still has, this file's cache or others."""


@lru_cache(maxsize=2)
def loaded_model(model: ModelSettings, adapter: AdapterSettings, labels: tuple[str, ...]) -> LoadedModel:
    """The loaded model for these settings; loading and hashing happen once.

    Its frozen weights are those of another model of this process where they are the same: several ranks of one base, or
    lengths, take its memory once.
    """
    if on_cuda():
        make_room()  # of what was forgotten since
    others = [Shared(other.model, other.base.fingerprint) for other in _HELD]
    found = LoadedModel(load_base(model, labels, *others), adapter, model)
    _HELD.add(found)
    return found
