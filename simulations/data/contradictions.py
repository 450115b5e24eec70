"""Settings that the data contradict: refused before a model is loaded, each with the way out.

What settings contradict each other, without data, is `strategies/compatibility`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from fedlora.config import Recipe
from fedlora.settings import SettingsError, nearest
from server.requests.planner import OTHERS


def refuse_contradictions(recipe: Recipe, clients: Collection[str]) -> None:
    """SettingsError that lists everything that these clients contradict."""
    found = list(contradictions(recipe, clients))
    if found:
        raise SettingsError("\n".join(found))


def contradictions(recipe: Recipe, clients: Collection[str]) -> Iterator[str]:
    count = len(clients)
    if recipe.mode == "federated" and recipe.rounds.min_clients > count:
        yield f"rounds.min_clients={recipe.rounds.min_clients}, and the data have {count} clients; lower it."
    attack, robust = recipe.attack, recipe.robust
    if recipe.mode == "federated" and attack is not None and attack.clients >= count:
        yield (
            f"attack.clients={attack.clients} needs a federation of more clients than attackers, and the data have "
            f"{count} clients; lower it."
        )
    if recipe.mode == "federated" and robust.enabled and recipe.rounds.asked(count) < robust.least_updates:
        yield (
            f"{robust.precondition}, and of {count} clients a round asks {recipe.rounds.asked(count)}. Ask more "
            "of them (rounds.fraction), or lower robust.attackers."
        )
    for name in recipe.devices.keys() - {OTHERS} - set(clients):
        near = nearest(name, [*clients, OTHERS])
        known = f"did you mean {near!r}?" if near else f"the clients are {', '.join(sorted(clients)[:12])}."
        yield f"devices.{name} is no client of these data; {known}"
