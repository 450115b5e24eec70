"""Simulated attackers, and what they do (`simulations/attacks.py`).

No message has a field for it (`fedlora.protocol.task.Task`), and a deployment refuses a recipe with it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedlora.settings import Settings

AttackKind = Literal["label-flip", "sign-flip", "scaled", "colluding", "overclaim", "regauge"]


FLIPS_LABELS: tuple[AttackKind, ...] = ("label-flip", "scaled", "colluding", "overclaim")
"""What trains on reversed classes."""


class AttackSettings(Settings):
    """Simulations only: some of the clients attack, in every round."""

    kind: AttackKind
    """`label-flip`: trains on reversed classes. `sign-flip`: sends the negative of its update. `scaled`: label-flip,
    multiplied by `scale`. `colluding`: label-flip, and all attackers send the same update. `overclaim`: label-flip, and
    claims the largest number of examples that is allowed. `regauge`: sends B·scale and A/scale, which gives the same
    ΔW."""

    clients: int = Field(1, ge=1)
    """Number of attackers, drawn with the run's seed."""

    scale: float = Field(10.0, gt=0)
    """Factor of `scaled` and `regauge`."""
