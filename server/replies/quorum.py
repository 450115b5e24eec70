"""How many of a round's clients must have sent a valid update, and what is said where they have not."""

from __future__ import annotations

import math
from collections import Counter

from fedlora.config import Recipe
from fedlora.settings import RunError
from server.replies.intake import ReplyValidator


class QuorumError(RunError):
    """Too few valid updates in a round; the run stands where it stood before it."""


def quorum_of(recipe: Recipe, asked: int) -> int:
    """Of so many clients that were asked."""
    return max(1, math.ceil(recipe.rounds.quorum * asked))


def too_few(intake: ReplyValidator, recipe: Recipe, also: str = "") -> QuorumError:
    """The error of a round that too few have answered, with what became of the others."""
    counts = Counter(f"{r.outcome} ({r.code})" for r in intake.records() if r.outcome != "trained")
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return QuorumError(
        f"round {intake.number}: {intake.accepted} of {intake.size} clients sent a valid update, needed "
        f"{quorum_of(recipe, intake.size)} (rounds.quorum={recipe.rounds.quorum}): "
        f"{why or 'no other client was asked'}. {also}Nothing was changed; fix these clients, then continue with "
        "--resume."
    )
