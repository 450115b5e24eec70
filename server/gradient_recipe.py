"""The recipe of the round that asks clients for their gradients (`server.initial.client_gradients`), with its terms."""

from __future__ import annotations

from fedlora.config import Recipe
from fedlora.config.wire import WireSettings

FIRST_STEP = "first-step"
"""The round's folder, in the run's."""


NO_RESULT = {"generate": None, "export_every": None}
"""The round's state is a gradient, which nobody asks or loads."""


def gradient_recipe(recipe: Recipe, width: int) -> Recipe:
    """The recipe of the round that asks for gradients: everything that is not about the first step stays."""
    first = recipe.adapter.first_step
    assert first is not None  # the recipe's own check
    adapter = recipe.adapter.model_copy(
        update={
            "kind": "lora", "r": width, "alpha": float(width), "rslora": False, "dropout": 0.0,
            "init": "kaiming", "public": None, "first_step": None,
        }
    )  # fmt: skip
    train = recipe.train.model_copy(
        update={
            "optimizer": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "max_grad_norm": None,
            "head": "frozen", "steps": 1, "batch_size": first.batch_size, "schedule": "constant", "warmup": 0.0,
            "optimizer_state": "reset", "proximal_mu": 0.0, "local_epochs": None,
        }
    )  # fmt: skip
    private = {"epsilon": first.epsilon, "noise_multiplier": None, "clip": first.clip, "spare_rounds": 0, "adapt": None}
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}, first step",
            "adapter": adapter,
            "train": train,
            "rounds": recipe.rounds.model_copy(update={"count": 1, "fraction": 1.0, **NO_RESULT}),
            "privacy": recipe.privacy.model_copy(update=private),
            "wire": WireSettings(),
            "devices": {},
        }
    )
