"""`model.preference:` what the task `preference` minimises."""

from __future__ import annotations

from pydantic import Field

from fedlora.settings import Settings


class PreferenceSettings(Settings):
    """How a pair of answers becomes a loss (DPO, arXiv 2305.18290)."""

    beta: float = Field(0.1, gt=0)
    """How far the model may go from its base for the sake of a pair: the larger, the less far."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round (cDPO); 0 believes them all."""
