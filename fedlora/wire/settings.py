"""How updates are packed for the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedlora.settings import Settings


class WireSettings(Settings):
    """The codec of uploads and downloads."""

    codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign", "auto"] = "fp32"
    """How each sent value is stored; `auto` measures the update and picks."""

    density: float = Field(1.0, gt=0, le=1)
    """Share of values that is sent, the largest by magnitude in each tensor (top-k); 1 sends all."""

    error_feedback: bool = True
    """Keep what a lossy codec dropped on the site's disk and add it to the next update."""

    download_codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign"] = "fp32"
    """The same for what the coordinator sends."""

    download_density: float = Field(1.0, gt=0, le=1)
    """Share of the change since a client's last acknowledged state that is sent down."""
