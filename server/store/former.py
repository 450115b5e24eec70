"""Former names of fields in the JSON of the API and of `fedlora runs`, kept for one version more.

Guarantee: a row that has a field under its former name holds the same value there as under its present name.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

FORMER = "accuracy"
"""The metric of every run before there were tasks. Fields of rows are still named after it, and hold what `score`,
`best_score` and `client_score` do; None where a run is compared by something else."""

RENAMED = {
    "why": "reason", "begun_at": "started_at", "heard_at": "last_seen_at", "rounds_wanted": "total_rounds",
    "round_begun_at": "round_started_at", "last_heard_at": "last_seen_at", "misses": "missed_in_a_row",
    "verb": "action", "placed_at": "created_at", "taken_at": "handled_at",
}  # fmt: skip
"""Former names, which are still those of columns, and the present ones."""

Former = Annotated[float | None, Field(deprecated=True)]
FormerText = Annotated[str | None, Field(deprecated=True)]
FormerCount = Annotated[int | None, Field(deprecated=True)]


class FormerNames:
    """Fills the former names of a frozen row; what is given for them is ignored."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every class that has this one as its base is a dataclass
            if field.name in RENAMED:
                object.__setattr__(self, field.name, getattr(self, RENAMED[field.name]))


@dataclass(frozen=True, kw_only=True)
class FormerOfRun(FormerNames):
    why: FormerText = None
    begun_at: Former = None
    heard_at: Former = None
    rounds_wanted: FormerCount = None
    round_begun_at: Former = None


@dataclass(frozen=True, kw_only=True)
class FormerOfSite(FormerNames):
    misses: FormerCount = None
    last_heard_at: Former = None


@dataclass(frozen=True, kw_only=True)
class FormerOfOrder(FormerNames):
    verb: FormerText = None
    placed_at: Former = None
    taken_at: Former = None
