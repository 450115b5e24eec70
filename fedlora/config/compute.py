"""How a machine computes: its own matter, whatever recipe and whatever task it computes for.

    client.yaml, server.yaml     device, dtype, microbatch
    a command                    --device, --dtype, --microbatch, --together

Guarantee: nothing of it is in a task, a checkpoint or a privacy charge. A run goes on, and a retried task is known,
on another device and in other pieces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, TypeVar

from pydantic import Field

from fedlora.config.model import LoadDtype, ModelSettings
from fedlora.config.train import TrainSettings
from fedlora.settings import Settings


class Computed(Protocol):
    """What a machine can be asked to compute: a task, or a recipe."""

    @property
    def model(self) -> ModelSettings: ...
    @property
    def train(self) -> TrainSettings: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


C = TypeVar("C", bound=Computed)


class ComputeSettings(Settings):
    """Where a machine computes, and how. What is None is as recipe or task say."""

    device: str | None = None
    """cpu, cuda, cuda:1, ..."""

    dtype: Literal["float32", "bfloat16"] | None = None
    """Of forward and backward passes. A recipe wishes one (`model.dtype`), because figures depend on it; clipping, sums
    and noise are float32 or better with either, so that no charge depends on it."""

    load_dtype: LoadDtype | None = None
    """How a site holds the base, where the run allows another form than its own (`model.also_held_as`)."""

    microbatch: int | None = Field(None, ge=1)
    """Most examples in memory at once, in training and in evaluation. The sums are the same up to rounding."""

    clients_per_gpu: int = Field(1, ge=1)
    """Clients that share a GPU, with `--engine ray`: each process takes this share of it, and has a base model of its
    own."""

    together: bool = False
    """Whether clients of one process train together, their adapters side by side on one base (`client.together`), where
    that pays. What each learns is the same up to rounding. A deployed site has one client."""

    def placed(self, work: C) -> C:
        """`work` as this machine does it: to compute by, never to send, to keep or to identify anything by."""
        names = ("device", "dtype", "load_dtype")
        model = {name: value for name in names if (value := getattr(self, name)) is not None}
        train = {} if self.microbatch is None else {"microbatch_size": self.microbatch}
        if not model and not train:
            return work
        return work.model_copy(
            update={"model": work.model.model_copy(update=model), "train": work.train.model_copy(update=train)}
        )


OWN = ComputeSettings()
"""A machine that says nothing: as recipe or task say."""
