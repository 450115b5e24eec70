"""A round that a rule could not judge, or that would not fit into memory, is refused before anything is sent.

What a recipe and its strategy cannot have together is refused earlier: `strategies/compatibility/table.py`.
"""

from __future__ import annotations

from fedlora.config import Recipe
from fedlora.settings import RunError
from fedlora.updates import Adapter

HELD_BYTES, WORK_BYTES = 4, 48  # a value of a float32 update; of the largest matrix while its products are compared


def require_enough(recipe: Recipe, number: int, asked: int, adapter: Adapter) -> None:
    """RunError where a round could not be judged, or its updates not be held, whatever is answered."""
    settings, rounds = recipe.robust, recipe.rounds
    if asked < settings.least_updates:
        raise RunError(
            f"round {number}: {settings.precondition}, but {asked} clients are asked. Connect more clients and wait "
            f"for them (rounds.min_clients={rounds.min_clients}), ask more of them "
            f"(rounds.fraction={rounds.fraction}), or lower robust.attackers. Nothing was changed."
        )
    if settings.rule != "mean" and (needed_mb := held_mb(asked, adapter)) > settings.memory_mb:
        raise RunError(
            f"round {number}: robust.rule={settings.rule} keeps the updates of {asked} clients in memory at once, "
            f"{needed_mb:.0f} MB, more than robust.memory_mb={settings.memory_mb:.0f}. Raise it, ask fewer clients "
            "(rounds.fraction), or choose robust.norm_bound alone, which keeps one at a time. Nothing was changed."
        )


def held_mb(clients: int, adapter: Adapter) -> float:
    """Memory for all of a round's updates, and for comparing the largest of the matrices."""
    sizes = [tensor.numel() for tensor in adapter.tensors().values()]
    largest = max((layer.A_rn.numel() + layer.B_mr.numel() for layer in adapter.layers.values()), default=0)
    return clients * (HELD_BYTES * sum(sizes) + WORK_BYTES * largest) / 1e6
