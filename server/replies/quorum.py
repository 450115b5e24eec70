"""How many of a round's clients must have sent a valid update, and what is said where they have not."""

from __future__ import annotations

import math
from collections import Counter

from fedlora.config import Recipe
from fedlora.settings import RunError
from server.replies.intake import ReplyValidator

ADVICE = {
    "not-finite": "What they received, or every step of theirs, had no finite loss or gradient: lower train.lr, "
    "or set train.max_grad_norm. ",
    "norm-out-of-range": "Their change is longer than rounds.max_update_norm: lower train.lr. ",
    "out-of-memory": "Not even one example at once fits in their memory: lower model.max_tokens, or set "
    "model.gradient_checkpointing. ",
}
"""The way out of what a recipe can mend, by the code that a site answers with."""


class QuorumError(RunError):
    """Too few valid updates in a round; the run stands where it stood before it."""


def quorum_of(recipe: Recipe, asked: int) -> int:
    """Of so many clients that were asked."""
    return max(1, math.ceil(recipe.rounds.quorum * asked))


def too_few(intake: ReplyValidator, recipe: Recipe, also: str = "") -> QuorumError:
    """The error of a round that too few have answered, with what became of the others."""
    missing = [record for record in intake.records() if record.outcome != "trained"]
    counts = Counter(f"{record.outcome} ({record.code})" for record in missing)
    advice = "".join(said for code, said in ADVICE.items() if code in {record.code for record in missing})
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    return QuorumError(
        f"round {intake.number}: {intake.accepted} of {intake.size} clients sent a valid update, needed "
        f"{quorum_of(recipe, intake.size)} (rounds.quorum={recipe.rounds.quorum}): "
        f"{why or 'no other client was asked'}. {advice}{also}Nothing was changed; fix these clients, then "
        "continue with --resume."
    )
