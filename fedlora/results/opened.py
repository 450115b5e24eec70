"""An adapter opened on this machine: the base that it belongs to, loaded, and the adapter in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fedlora.adapters import inject, write
from fedlora.adapters.uniform import uniform
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.data.examples import Examples
from fedlora.data.row import Row
from fedlora.exports.merged import base_of
from fedlora.exports.source import Source, sources_in
from fedlora.models.base import Base
from fedlora.models.reference import referred
from fedlora.settings import SettingsError
from fedlora.tasks.base import TaskKind
from fedlora.tasks.registry import task_of
from fedlora.updates import Adapter, LowRank

AT_ONCE = 32
"""Rows that are computed together, at most."""


@dataclass(frozen=True)
class Opened:
    """The served model. With `fedlora.adapters.untouched` around it, it is its base with the trained head, if any."""

    source: Source
    base: Base

    @property
    def model(self) -> nn.Module:
        return self.base.model

    @property
    def on(self) -> ModelSettings:
        return self.source.model

    @property
    def task(self) -> TaskKind:
        return task_of(self.on)

    @property
    def labels(self) -> tuple[str, ...]:
        return self.source.about.labels

    def examples(self, rows: list[Row], *, each: bool) -> Examples:
        """As the task reads the rows, with what it takes from the base. With `each`, one that cannot be used has no
        loss (`has_loss`); otherwise SettingsError. What the model cannot compute has none either."""
        items = self.task.encode(
            rows, self.base.processor, self.labels, longest=self.on.max_tokens, padding=self.base.padding, each=each
        )
        examples = Examples(items, self.task, self.base.padding).usable_by(self.model)
        return referred(self.model, examples, on=self.on, at_once=AT_ONCE, each=each)


def open_result(place: Path, *, base: str | None = None, device: str | None = None) -> Opened:
    """The one adapter of a run's folder, or the one whose folder it is; `base`: where its base lies here.

    SettingsError where there is none, several, or a base that is another one or not to be had.
    """
    return open_source(one_source(place, base=base, device=device))


def open_source(source: Source) -> Opened:
    """Its base loaded, the adapter in it; SettingsError for a base that is another one or not to be had."""
    loaded = base_of(source)
    put_in(loaded.model, source)
    return Opened(source, loaded)


def one_source(place: Path, *, base: str | None = None, device: str | None = None) -> Source:
    """The adapter of `open_result`, read and not yet put into anything."""
    sources = sources_in(place, base=base)
    if len(sources) > 1:
        raise SettingsError(
            f"{place} holds {len(sources)} adapters, one a site; give the folder of one of them: "
            f"{', '.join(source.name for source in sources[:10])}."
        )
    return computed_on(sources[0], device)


def computed_on(source: Source, device: str | None) -> Source:
    """None: where the run computed."""
    return source if device is None else replace(source, model=source.model.model_copy(update={"device": device}))


def put_in(model: nn.Module, source: Source) -> None:
    """The adapter into the model that it was trained on, and what trained whole."""
    change = uniform(source.products)
    layers = {name: LowRank(B_mr, A_rn, scale=1.0) for name, (B_mr, A_rn) in change.factors.items()}
    rank = max(1, change.rank)
    try:
        inject(model, AdapterSettings(r=rank, alpha=float(rank), targets=tuple(layers)))
        write(model, Adapter(layers, {name: tensor.to(torch.float32) for name, tensor in source.dense.items()}))
    except ValueError as error:
        raise SettingsError(f"the adapter {source.name} does not go into {source.model.id!r}: {error}") from None
