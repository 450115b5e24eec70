"""What is told of how an update was packed: read where nothing is packed, and without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedlora.settings import Settings

CodecName = Literal["fp32", "fp16", "bf16", "int8", "int4", "sign"]


class Packing(Settings):
    """How one update was packed, as its client reports it. Made of what is sent: post-processing under privacy."""

    codec: CodecName
    density: float = Field(gt=0, le=1)
    """Share of all values; `wire.densities` spread it unevenly."""

    error: float = Field(ge=0)
    """‖left out‖ / ‖update‖, what was left over from earlier rounds included."""

    kurtosis: float | None = Field(None, ge=0)
    """Measured for `codec: auto`: 1 for signs, 3 for a Gaussian."""

    top_energy: float | None = Field(None, ge=0, le=1)
    """Measured for `codec: auto`: share of the squares that the largest 1/16 of each tensor hold."""
