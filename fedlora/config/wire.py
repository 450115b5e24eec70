"""How updates and states are packed for the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedlora.factor import Factor, factor_of
from fedlora.settings import Settings


class Densities(Settings):
    """The share of values that is sent of every A, B, R and tensor of the head, if it differs from `wire.density`."""

    A: float | None = Field(None, gt=0, le=1)
    """Of every A (r, n)."""

    B: float | None = Field(None, gt=0, le=1)
    """Of every B (m, r)."""

    R: float | None = Field(None, gt=0, le=1)
    """Of every R (r, r) of Fed-SB."""

    head: float | None = Field(None, gt=0, le=1)
    """Of every tensor of the task head."""

    @property
    def given(self) -> dict[Factor, float]:
        """Those that are set."""
        return {Factor(name): share for name, share in self.model_dump(exclude_none=True).items()}


class WireSettings(Settings):
    """The codecs of uploads and downloads."""

    codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign", "auto"] = "fp32"
    """How each sent value of an update is encoded; `auto` measures each update and chooses codec and density."""

    density: float = Field(1.0, gt=0, le=1)
    """Share of an update's values that is sent, the largest by magnitude in each tensor (top-k); 1 sends all."""

    densities: Densities = Densities()
    """Separate densities for A, B, R or the head: for example, send the whole head but less of A."""

    error_feedback: bool = True
    """Error feedback: keep on the site's disk what a lossy codec dropped, and add it to the next update."""

    feedback_decay: float = Field(1.0, ge=0, le=1)
    """Factor on that residual for each round that the site missed; 0 drops it after one missed round."""

    download: Literal["whole", "changes"] = "whole"
    """`whole` sends the whole state to every client; `changes` sends the difference to the state that a site has, and
    the whole state (fp32) to new clients and to those that were away for long."""

    download_codec: Literal["fp32", "fp16", "bf16", "int8", "int4", "sign"] = "fp32"
    """How each value that the coordinator sends is encoded; clients train from the rounded values."""

    download_density: float = Field(1.0, gt=0, le=1)
    """Share of a change's values that is sent; the rest follows with later changes. Needs `download: changes`."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> WireSettings:
        if self.codec == "auto" and self.densities.given:
            raise ValueError("codec: auto chooses the density itself; set another codec, or remove wire.densities.")
        whole = self.download == "whole"
        if whole and (self.download_density < 1 or self.download_codec not in ("fp32", "fp16", "bf16")):
            raise ValueError(
                f"download_codec {self.download_codec} at density {self.download_density:g} works only for "
                "changes, not for complete states; set download: changes, or use fp32, fp16 or bf16 at density 1."
            )
        return self

    @property
    def lossy(self) -> bool:
        """Whether an upload loses anything."""
        return self.codec != "fp32" or min(self.density, *self.densities.given.values(), 1.0) < 1

    def density_of(self, name: str) -> float:
        """The share that is sent of the tensor of this flat name."""
        given = self.densities.given
        return given.get(factor_of(name), self.density) if given else self.density
