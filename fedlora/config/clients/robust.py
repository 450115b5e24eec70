"""Defences against lying clients (`server/stages/robust`, docs/robustness.md). Off by default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from fedlora.settings import Settings

COORDINATE_RULES = ("median", "trimmed-mean")
Rule = Literal["mean", "clip-to-median", "screen", "multi-krum", "median", "trimmed-mean"]


class RobustSettings(Settings):
    """Limits on what one client can do to a round. Any of them makes weights uniform: a false number of examples would
    give influence."""

    norm_bound: float | None = Field(None, gt=0)
    """Largest change of the model by one update: ‖ΔW_k - ΔW_sent‖_F over all adapted matrices and dense parameters."""

    over_bound: Literal["clip", "reject"] = "clip"
    """What happens to an update over `norm_bound`: scaled down to it, or left out."""

    rule: Rule = "mean"
    """How a round's updates are combined. On ΔW, for every strategy of equal ranks: `clip-to-median` (of the round's
    norms), `screen` (leaves out outliers), `multi-krum`. On the values sent, if uploads are linear: `median`,
    `trimmed-mean`."""

    attackers: int = Field(1, ge=1)
    """f: the largest number of lying clients in a round. Fewer answers than the rule needs for f stop the run."""

    keep: int | None = Field(None, ge=1)
    """Number of updates that multi-krum keeps, at most n - f; by default n - f - 2, for which its guarantee is
    proven."""

    threshold: float = Field(2.0, gt=1)
    """`screen` leaves out at most f updates: those whose median distance to the others is this many times the
    median's."""

    memory_mb: float = Field(4096.0, gt=0)
    """Memory limit for a round's updates, in MB: every rule except `mean` keeps all of them at once. A round that needs
    more is refused before anything is sent."""

    @property
    def enabled(self) -> bool:
        return self.norm_bound is not None or self.rule != "mean"

    @property
    def on_products(self) -> bool:
        """Whether ΔW is measured."""
        return self.norm_bound is not None or self.rule in ("clip-to-median", "screen", "multi-krum")

    @property
    def least_updates(self) -> int:
        """The fewest updates that the rule can judge against `attackers` liars."""
        f = self.attackers
        match self.rule:
            case "mean":
                return 1
            case "multi-krum":
                return max(2 * f + 3, f + (self.keep or 0))
            case "screen":
                return 2 * f + 2
        return 2 * f + 1

    @property
    def precondition(self) -> str:
        """The same in words."""
        f = self.attackers
        bound = {"mean": "n >= 1", "multi-krum": "n >= 2f + 3", "screen": "n >= 2f + 2"}.get(self.rule, "n >= 2f + 1")
        kept = f" and n >= f + robust.keep={self.keep}" if self.keep is not None else ""
        return (
            f"robust.rule={self.rule} needs {bound}{kept} with f = robust.attackers={f}: {self.least_updates} updates"
        )

    @model_validator(mode="after")
    def _pieces_fit(self) -> RobustSettings:
        if self.keep is not None and self.rule != "multi-krum":
            raise ValueError(f"keep={self.keep} is a setting of rule: multi-krum; remove it, or choose that rule.")
        return self
