"""How updates are packed for the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedlora.settings import Settings


class WireSettings(Settings):
    """The codec of uploads and downloads."""

    codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign", "auto"] = "fp32"
    """How each sent value of an update is stored; `auto` measures each update and picks codec and density."""

    density: float = Field(1.0, gt=0, le=1)
    """Share of an update's values that is sent, the largest by magnitude in each tensor (top-k); 1 sends all."""

    error_feedback: bool = True
    """Keep what a lossy codec dropped on the site's disk and add it to the next update."""

    download_codec: Literal["fp32", "fp16", "bf16"] = "fp32"
    """How each value that the coordinator sends is stored; clients train from the rounded values."""

    @property
    def lossy(self) -> bool:
        """Whether an upload loses anything."""
        return self.codec != "fp32" or self.density < 1
