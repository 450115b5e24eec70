"""What a run will need of a site, as its administrator was told: `fedlora client doctor` looks at the site for it."""

from __future__ import annotations

from dataclasses import dataclass

from fedlora.config.model import LoadDtype


@dataclass(frozen=True)
class Wanted:
    """Settings of a recipe's `model`; without an id, what policy.yaml allows is looked at."""

    model: str | None = None
    load_dtype: LoadDtype | None = None
    """It decides the fingerprint, as the id does; None: as client.yaml says, or float32."""
    max_tokens: int | None = None
    """Where a run cuts; None where nobody has said."""


NOTHING = Wanted()
