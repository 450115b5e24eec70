"""How updates and states are packed for the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedlora.factor import Factor, factor_of
from fedlora.settings import Settings


class Densities(Settings):
    """The share that is sent of every A, B, R and tensor of the head, where it is not `wire.density`."""

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
    """How each sent value of an update is stored; `auto` measures each update and picks codec and density."""

    density: float = Field(1.0, gt=0, le=1)
    """Share of an update's values that is sent, the largest by magnitude in each tensor (top-k); 1 sends all."""

    densities: Densities = Densities()
    """Quotas of their own for A, B, R or the head: a head that is sent whole, an A of which less is."""

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
        if self.codec == "auto" and self.densities.given:
            raise ValueError("codec auto picks a density itself; set a codec, or leave densities out.")
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
        return self.codec != "fp32" or min(self.density, *self.densities.given.values(), 1.0) < 1

    def density_of(self, name: str) -> float:
        """The share that is sent of the tensor of this flat name."""
        given = self.densities.given
        return given.get(factor_of(name), self.density) if given else self.density
