"""A run's privacy figures for its summary: ε of every client, whether it is only for tests, and what else is
revealed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedlora.config import Recipe
from fedlora.config.privacy import ClientLevelSettings
from fedlora.privacy.accounting import ADJACENCY, ClientLevel, client_level_epsilon
from fedlora.privacy.unconfirmed import SiteSpent

ALWAYS = (
    "the public size of each site's dataset (declared in its policy, or rounded down to a coarse ladder): it sets the "
    "sampling rate and the update's weight",
    "which rounds a site attended, how long it took to answer, and the code of a refusal",
    "choices made after looking at results: learning rates, number of rounds, and which run is published",
)


CLIENT_LEVEL_LEAKS = (
    "whether a round reached its quorum (`rounds.quorum`, `rounds.min_clients`), which one client can decide",
    "the coordinator sees single updates and what clients report with them: client-level noise is added there",
    "evaluations that are published together with the adapters, unless their examples are public",
)


def leaks(recipe: Recipe) -> list[str]:
    """The information that a private run's ε does not cover."""
    named = list(ALWAYS)
    if recipe.privacy.report_metrics:
        named.append(
            "losses and accuracies on the sites' own data, and how many examples they were measured on: "
            "privacy.report_metrics sends them without noise"
        )
    if recipe.privacy.adapt is not None:
        named.append(
            "the coordinator's own test set, which was used to adapt the noise: its examples are treated as public"
        )
    if recipe.privacy.client_level is not None:
        named.extend(CLIENT_LEVEL_LEAKS)
    if recipe.privacy.insecure_seed is not None:
        named.append("everything: privacy.insecure_seed lets anyone who knows the seed repeat the noise")
    return named


def privacy_summary(recipe: Recipe, spent: Mapping[str, SiteSpent], *, rounds: int) -> dict[str, Any]:
    """The privacy keys of summary.json. Empty without privacy; the two units side by side, never added."""
    found = {} if not recipe.privacy.enabled else _example_level(recipe, spent)
    if recipe.privacy.client_level is not None:
        assert recipe.expected_clients is not None  # or no run of it begins: strategies.compatibility
        found["client_level"] = _client_level(recipe.privacy.client_level, rounds, clients=recipe.expected_clients)
    return {**found, "leaks": leaks(recipe)} if found else {}


def _client_level(settings: ClientLevelSettings, rounds: int, *, clients: int) -> dict[str, Any]:
    """ε of a client that took part in every round: the coordinator chose who did, so nothing is amplified."""
    event = ClientLevel(noise_multiplier=settings.noise_multiplier, rounds=rounds)
    return {
        "epsilon": client_level_epsilon([event], delta=settings.delta),
        "delta": settings.delta,
        "adjacency": "add-or-remove-one-client",
        "noise_multiplier": settings.noise_multiplier,
        "clip": settings.clip,
        "clients": clients,
        "denominator": clients + 1,
        "rounds": rounds,
        "trusts": "the coordinator",
    }


def epsilon_max(spent: Mapping[str, SiteSpent]) -> float:
    """The largest ε of any site, at most: never their mean."""
    return max((site.epsilon for site in spent.values()), default=0.0)


def privacy_note(recipe: Recipe, spent: Mapping[str, SiteSpent]) -> str | None:
    """One paragraph for users of the adapter; None without example-level privacy."""
    if not recipe.privacy.enabled:
        return None
    note = (
        f"Trained with differential privacy: ε is at most {_rounded_up(epsilon_max(spent))} at δ = "
        f"{recipe.privacy.delta:g} for every site, one example added or removed (DP-SGD)."
    )
    waiting = sum(site.unconfirmed for site in spent.values())
    if waiting:
        confirmed = max((site.confirmed for site in spent.values()), default=0.0)
        note += (
            f" The sites' receipts confirm {_rounded_up(confirmed)} of it; {waiting} task(s) that were "
            "sent have no receipt and are counted as charged."
        )
    first = recipe.adapter.first_step
    if recipe.adapter.init == "client-gradients" and first is not None and first.epsilon is not None:
        note += (
            f" The round before it asked sites for gradients and is counted separately: ε at most {first.epsilon:g}."
        )
    if not all(site.secure for site in spent.values()):
        note += " The noise came from a seed: this ε is for tests and is not a guarantee."
    return note


def _rounded_up(value: float) -> str:
    return f"{math.ceil(100 * value) / 100:.2f}" if math.isfinite(value) else "infinite"


def _example_level(recipe: Recipe, spent: Mapping[str, SiteSpent]) -> dict[str, Any]:
    return {
        "epsilon_max": epsilon_max(spent),
        "epsilon_by_client": {name: site.epsilon for name, site in spent.items()},
        "epsilon_confirmed": {name: site.confirmed for name, site in spent.items()},
        "epsilon_sent_unconfirmed": {name: site.epsilon - site.confirmed for name, site in spent.items()},
        "tasks_sent_unconfirmed": {name: site.unconfirmed for name, site in spent.items()},
        "noise_multiplier_by_client": {
            name: site.newest.noise_multiplier for name, site in spent.items() if site.newest is not None
        },
        "delta": recipe.privacy.delta,
        "adjacency": ADJACENCY,
        "privacy_unit": "example",
        "dropout": "off",  # private steps train without it, whatever the base model's config says
        "insecure_noise": not all(site.secure for site in spent.values()),
    }
