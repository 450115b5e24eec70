"""The private recipes as they are packaged, ready for a private step on real texts: what guarantees are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

import simulations
from client.training import Protection, private_steps
from fedlora.adapters import initial_adapter, set_trainable, write
from fedlora.config import Recipe
from fedlora.config.reading import load
from fedlora.data.examples import Examples
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SeededSource
from simulations.run import Simulation, prepare
from strategies.registry import build

PRIVATE_RECIPES = ("private-fedit", "private-ffa", "private-fedsvd", "private-fedsb")
RECIPES = Path(simulations.__file__).parent / "recipes"


def recipe(name: str, *overrides: str) -> Recipe:
    return load(RECIPES / f"{name}.yaml", overrides)


@dataclass(frozen=True)
class Shipped:
    """A model at work in the middle of a run, what trains in it, and a client's texts."""

    recipe: Recipe
    model: nn.Module
    parameters: list[nn.Parameter]
    examples: Examples

    @contextmanager
    def steps(
        self, *, gradients: str = "fedlora", clip: float | None = None
    ) -> Iterator[tuple[PrivateEngine, LossPerExample]]:
        """The engine as the client enters it, everybody drawn."""
        mechanism = Mechanism(
            rate=1.0, noise_multiplier=1.0, clip=clip or self.recipe.privacy.clip, steps=1, expected_batch=32.0
        )
        protection = Protection(mechanism, SeededSource(0), gradients)
        recipe = self.recipe
        with private_steps(self.model, self.examples, recipe.train, on=recipe.model, protection=protection) as found:
            yield found


@lru_cache(maxsize=1)
def prepared(name: str, overrides: tuple[str, ...]) -> Simulation:
    return prepare(recipe(name, *overrides))


def shipped(name: str, *overrides: str, examples: int) -> Shipped:
    """The first texts of one airline; the adapter a little off its start: all that trains has gradients."""
    simulation = prepared(name, overrides)
    wanted, model = simulation.recipe, simulation.loaded_model.model
    first = initial_adapter(model, wanted.adapter, seed=0)
    stream = torch.Generator().manual_seed(3)
    moved = {
        key: tensor + 0.02 * torch.randn(tensor.shape, generator=stream) for key, tensor in first.tensors().items()
    }
    write(model, first.with_tensors(moved))
    strategy = build(wanted.strategy.name, wanted.strategy.options)
    parameters = set_trainable(model, strategy.trains(1))
    train = next(iter(simulation.data.clients.values())).train
    return Shipped(wanted, model, parameters, train.take(range(examples)))
