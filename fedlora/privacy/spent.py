"""What a run's summary says of privacy: ε of every client, how far it is a figure of a test, and what leaks besides."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fedlora.config import Recipe
from fedlora.privacy.accounting import ADJACENCY, ClientLevel, client_level_epsilon
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.settings import ClientLevelSettings

ALWAYS = (
    "the public size of each site's dataset (declared in its policy, or rounded down to a coarse ladder): it sets the "
    "sampling rate and the update's weight",
    "which rounds a site attended, how long it took to answer, and the code of a refusal",
    "choices made by looking at results: learning rates, rounds, and which run is published",
)


CLIENT_LEVEL_LEAKS = (
    "single updates and what clients report beside them, to the coordinator: client-level noise is added by it",
    "evaluations that are published beside the adapters, unless the examples are public",
)


def leaks(recipe: Recipe) -> list[str]:
    """What the ε of a private run does not cover, named."""
    named = list(ALWAYS)
    if recipe.privacy.report_metrics:
        named.append(
            "losses and accuracies on the sites' own data, and how many examples they were measured on: "
            "privacy.report_metrics sends them without noise"
        )
    if recipe.privacy.adapt is not None:
        named.append("the coordinator's own test set, by which the noise was adapted: its examples are taken as public")
    if recipe.privacy.client_level is not None:
        named.extend(CLIENT_LEVEL_LEAKS)
    if recipe.privacy.insecure_seed is not None:
        named.append("everything: privacy.insecure_seed makes the noise repeatable by whoever knows the seed")
    return named


def privacy_summary(recipe: Recipe, receipts: Iterable[Receipt], *, rounds: int) -> dict[str, Any]:
    """The privacy keys of summary.json. Empty without privacy; the two units side by side, never added."""
    found = {} if not recipe.privacy.enabled else _example_level(recipe, receipts)
    if recipe.privacy.client_level is not None:
        found["client_level"] = _client_level(recipe.privacy.client_level, rounds)
    return {**found, "leaks": leaks(recipe)} if found else {}


def _client_level(settings: ClientLevelSettings, rounds: int) -> dict[str, Any]:
    """ε of a client that took part in every round: the coordinator chose who did, so nothing is amplified."""
    event = ClientLevel(noise_multiplier=settings.noise_multiplier, rounds=rounds)
    return {
        "epsilon": client_level_epsilon([event], delta=settings.delta),
        "delta": settings.delta,
        "adjacency": "add-or-remove-one-client",
        "noise_multiplier": settings.noise_multiplier,
        "clip": settings.clip,
        "rounds": rounds,
        "trusts": "the coordinator",
    }


def _example_level(recipe: Recipe, receipts: Iterable[Receipt]) -> dict[str, Any]:
    """ε is the largest over clients, never their mean.

    `receipts`: of all rounds, any order. A client's ε is that of its last one, which composes all before it.
    """
    last: dict[str, Receipt] = {}
    secure = True
    for receipt in receipts:
        secure = secure and receipt.secure
        if receipt.client not in last or receipt.sequence > last[receipt.client].sequence:
            last[receipt.client] = receipt
    return {
        "epsilon_max": max((receipt.epsilon_run for receipt in last.values()), default=0.0),
        "epsilon_by_client": {name: last[name].epsilon_run for name in sorted(last)},
        "noise_multiplier_by_client": {name: last[name].noise_multiplier for name in sorted(last)},
        "delta": recipe.privacy.delta,
        "adjacency": ADJACENCY,
        "privacy_unit": "example",
        "dropout": "off",  # private steps train without it, whatever the base model's config says
        "insecure_noise": not secure,
    }
