"""`devices:` clients that train less than the whole adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class DeviceSettings(Settings):
    """Resources of one client: its rank and depth, or a budget that gives both (`server/requests/planner.py`)."""

    r: int | None = Field(None, ge=1)
    """Largest rank of a matrix; adapter.r when not given, and never more."""

    depth: int | None = Field(None, ge=1)
    """Number of transformer layers to adapt, counted from the output; all if not given."""

    distribution: Literal["uniform", "rising"] = "uniform"
    """`uniform`: the same rank in every adapted layer; `rising`: ranks grow towards the output (LEGEND)."""

    memory_mb: float | None = Field(None, gt=0)
    """Memory for training in addition to the frozen base, in MB: activations of the adapted layers, gradients,
    optimiser."""

    microbatch: Annotated[int | None, Since(2, ignorable=True)] = Field(None, ge=1)
    """Examples that it computes at once, of which `memory_mb` has to hold the activations; a batch when not given."""

    megabits_s: float | None = Field(None, gt=0)
    """Bandwidth of the site's link, in Mbit/s, together with `transfer_s`."""

    transfer_s: float = Field(60.0, gt=0)
    """Longest time for one round's download and upload, in seconds."""

    step_s: float | None = Field(None, gt=0)
    """Measured seconds per training step when every layer is adapted, together with `target_step_s`."""

    target_step_s: float | None = Field(None, gt=0)
    """Longest time for a training step on this device, in seconds."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> DeviceSettings:
        if (self.step_s is None) != (self.target_step_s is None):
            raise ValueError("step_s and target_step_s must be given together; give both or neither.")
        return self
