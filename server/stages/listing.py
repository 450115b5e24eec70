"""The stages of a recipe, in the order in which an update meets them."""

from __future__ import annotations

from fedlora.config import Recipe
from fedlora.privacy.noise import SecureSource, Source
from server.stages.base import Stage
from server.stages.client_level import ClientLevel
from server.stages.robust.stage import Robust


def stages_of(recipe: Recipe, *, source: Source | None = None) -> tuple[Stage, ...]:
    """`source`: of client-level noise; the operating system's when not given.

    ValueError where client-level privacy is asked for and nothing says how many clients are expected.
    """
    stages: list[Stage] = []
    settings, expected = recipe.privacy.client_level, recipe.expected_clients
    if settings is not None:
        if expected is None:
            raise ValueError("client-level privacy needs the number of clients that a round expects.")
        stages.append(ClientLevel(settings, expected, source or SecureSource()))
    if recipe.robust.enabled:
        stages.append(Robust(recipe.robust))
    return tuple(stages)
