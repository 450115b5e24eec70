"""Under privacy a model is tried before the run is begun: what every site would refuse is said once, with the reason.

A site answers with a code and keeps the reason in its own log (`fedlora.privacy.refusal`). In a simulation whoever runs
it is every site, and nothing of this has seen any data.
"""

from __future__ import annotations

from client.steps.rehearsed import rehearse_task
from fedlora.adapters import write
from fedlora.config import Recipe
from fedlora.models.loaded_model import LoadedModel
from fedlora.privacy.refusal import Refusal
from fedlora.settings import SettingsError
from server.requests.outgoing import trained_in
from strategies.registry import build


def require_private_training(recipe: Recipe, home: LoadedModel) -> None:
    """SettingsError where sites would refuse the first round's task for the model or the learning rate."""
    if not recipe.privacy.enabled:
        return
    trains, keeps = trained_in(1, recipe, build(recipe.strategy.name, recipe.strategy.options))
    write(home.model, home.template)  # a run before this one may have left other values
    try:
        rehearse_task(
            home.model,
            (*trains, *keeps),
            recipe.train,
            on=recipe.model,
            privacy=recipe.privacy,
            padding=home.base.padding,
            rounds=recipe.rounds.count,
        )
    except Refusal as refusal:
        kind = type(home.model).__name__
        reason = str(refusal).partition(": ")[2]
        raise SettingsError(
            f"model.id={recipe.model.id!r} ({kind}) cannot be trained with privacy as this recipe asks: {reason} "
            "Without privacy this is not asked of a model."
        ) from None
