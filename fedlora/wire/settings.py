"""How updates and states are packed for the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedlora.settings import Settings


class WireSettings(Settings):
    """The codecs of uploads and downloads."""

    codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign", "auto"] = "fp32"
    """How each sent value of an update is stored; `auto` measures each update and picks codec and density."""

    density: float = Field(1.0, gt=0, le=1)
    """Share of an update's values that is sent, the largest by magnitude in each tensor (top-k); 1 sends all."""

    error_feedback: bool = True
    """Keep what a lossy codec dropped on the site's disk and add it to the next update."""

    feedback_decay: float = Field(1.0, ge=0, le=1)
    """What is left of such a residual for each round that its site missed; 0 drops it after one."""

    download: Literal["whole", "changes"] = "whole"
    """`whole` sends everybody the whole state; `changes` sends what turns the state that a site holds into the next,
    and the whole state (fp32) to newcomers and to whoever was away for long."""

    download_codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign"] = "fp32"
    """How each value that the coordinator sends is stored; clients train from the rounded values."""

    download_density: float = Field(1.0, gt=0, le=1)
    """Share of a change's values that is sent; what is left out comes with later changes. Needs `download: changes`."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> WireSettings:
        whole = self.download == "whole"
        if whole and (self.download_density < 1 or self.download_codec not in ("fp32", "fp16", "bf16")):
            raise ValueError(
                f"download_codec {self.download_codec} at density {self.download_density:g} fits differences, not "
                "weights; set download: changes, or send whole states in fp32, fp16 or bf16 at density 1."
            )
        return self

    @property
    def lossy(self) -> bool:
        """Whether an upload loses anything."""
        return self.codec != "fp32" or self.density < 1
