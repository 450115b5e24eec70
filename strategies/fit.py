"""Remarks on an allowed combination of recipe and strategy, for the user."""

from __future__ import annotations

from collections.abc import Iterator

from fedlora.config import Recipe
from fedlora.updates import Factor
from strategies.base import Strategy
from strategies.registry import named

GROUPS = {
    "lora": {"lora_A": Factor.A, "lora_B": Factor.B},
    "lora_xs": {"core": Factor.R},
}
"""The probe's name of every factor that an adapter kind can train."""


def remarks(recipe: Recipe, strategy: Strategy) -> Iterator[str]:
    """Remarks: averaging that is not exact, as measured; no global model."""
    name, traits = recipe.strategy.name, strategy.traits
    if traits.keeps:
        yield f"strategy {name} has no global model: every client ends with its own."
        return
    if traits.exact:
        return
    from fedlora.adapters.exactness_probe import EXACT, probe  # PEFT: nobody else waits for it

    found = probe(recipe.adapter.kind)
    averaged = {group for group, factor in GROUPS[recipe.adapter.kind].items() if factor in strategy.trains(1)}
    error = found.when_training(averaged)
    if error > EXACT:
        kept = " or ".join(found.exact_with_frozen)
        yield (
            f"strategy {name} averages {' and '.join(sorted(averaged))}, which is not the same as averaging ΔW "
            f"(measured: wrong by {error:.0%} for two random clients; exact with {kept} frozen). Every round reports "
            f"its aggregation error; exact strategies: {', '.join(named(exact=True))}."
        )
