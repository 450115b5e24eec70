"""`model.preference:` what the tasks `preference` and `unpaired-preference` minimise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedlora.protocol.versions import Since
from fedlora.settings import Settings


class PreferenceSettings(Settings):
    """How what somebody thinks of answers becomes a loss."""

    loss: Annotated[Literal["dpo", "orpo", "kto"], Since(2)] = "dpo"
    """Of pairs: DPO (arXiv 2305.18290), ORPO (arXiv 2403.07691), which needs no reference, or KTO (arXiv 2402.01306),
    which judges each answer by itself. Answers that stand alone (`unpaired-preference`) always have KTO's."""

    beta: float = Field(0.1, gt=0)
    """How far the model may go from its base for the sake of a pair: the larger, the less far. Of ORPO its λ, what the
    odds ratio weighs beside the chosen answer's own loss."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Of DPO: the share of the pairs that are taken to be the wrong way round (cDPO); 0 believes them all."""

    desirable_weight: Annotated[float, Since(2)] = Field(1.0, gt=0)
    """Of KTO: what a good answer weighs (λ_D)."""

    undesirable_weight: Annotated[float, Since(2)] = Field(1.0, gt=0)
    """Of KTO: what a bad answer weighs (λ_U)."""

    reference_point: Annotated[float, Since(2)] = Field(0.0, ge=0)
    """Of KTO: z0 in nats, what a good answer has to gain on the base to count as one; a constant, so that examples stay
    independent of each other."""
