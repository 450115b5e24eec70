"""Canaries on a recipe's own data, model and private steps: an empirical lower bound on ε beside the claimed one.

A canary is a copy of one of the client's examples under a wrong class, in the training data with probability one half.
The auditor is the strongest there is: it sees every step's released gradient and scores a canary by how far its own
clipped gradient points the same way. Client and server see less (one update a round).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from client.training import make_optimizer
from fedlora.adapters import initial_adapter, set_trainable
from fedlora.config import Recipe
from fedlora.examples import Examples, concatenate
from fedlora.models import autocast
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.audit import Guesses, epsilon_lower_bound, guess
from fedlora.privacy.calibration import public_size
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource
from fedlora.privacy.policy import SIMULATION
from fedlora.privacy.terms import mechanism_for, target_of
from fedlora.randomness import generator
from fedlora.settings import SettingsError
from fedlora.tasks import TASKS
from fedlora.updates import Factor
from server.coordinate import load_state
from simulations.run import Simulation
from strategies.registry import build


@dataclass(frozen=True)
class Audit:
    """What was claimed for the steps that were taken, and what the canaries refute."""

    client: str
    steps: int
    noise_multiplier: float
    epsilon_claimed: float
    epsilon_lower_bound: float
    guesses: Guesses
    delta: float
    confidence: float

    @property
    def holds(self) -> bool:
        """Whether the claim survives. A False is a bug (or bad luck, with probability 1 - confidence)."""
        return self.epsilon_lower_bound <= self.epsilon_claimed


def mechanism_of(recipe: Recipe, examples: int) -> Mechanism:
    """The steps of a whole run at one client, as its guard would grant them."""
    if not recipe.privacy.enabled:
        raise SettingsError("the recipe is not private; set privacy.epsilon, for example --set privacy.epsilon=6.")
    mechanism = mechanism_for(
        recipe.privacy,
        recipe.train,
        size=public_size(examples),
        most_charges=recipe.most_charges,
        target=target_of(recipe.privacy),
        least_sigma=SIMULATION.smallest_noise_multiplier,
    )
    return replace(mechanism, steps=recipe.most_charges * mechanism.steps)


def audit(
    simulation: Simulation, *, client: str, canaries: int, guesses: int, confidence: float, max_steps: int | None
) -> Audit:
    """Train one client alone with canaries; a run cut to `max_steps` is held against the ε of those steps."""
    recipe, examples = simulation.recipe, simulation.data.clients[client].train
    mechanism = mechanism_of(recipe, len(examples))
    steps = min(mechanism.steps, max_steps or mechanism.steps)
    included = [byte < 128 for byte in os.urandom(canaries)]
    planted = wrong_labels(examples, canaries, classes=len(simulation.data.labels), seed=recipe.seed)
    chosen = planted.take([index for index, is_in in enumerate(included) if is_in])
    scores = train_and_score(simulation, mechanism, concatenate([examples, chosen]), planted, steps=steps)
    found = guess(scores.tolist(), included, guesses=guesses)
    delta = recipe.privacy.delta
    claimed = Event(rate=mechanism.rate, noise_multiplier=mechanism.noise_multiplier, steps=steps)
    return Audit(
        client=client,
        steps=steps,
        noise_multiplier=mechanism.noise_multiplier,
        epsilon_claimed=epsilon([claimed], delta=delta),
        epsilon_lower_bound=epsilon_lower_bound(found, delta=delta, confidence=confidence),
        guesses=found,
        delta=delta,
        confidence=confidence,
    )


def wrong_labels(examples: Examples, count: int, *, classes: int, seed: int) -> Examples:
    """Copies of `count` of the examples under another class each."""
    if count > len(examples):
        raise SettingsError(f"{count} canaries are more than the client's {len(examples)} examples; use fewer.")
    stream = generator(seed, "canaries")
    copies = examples.take(torch.randperm(len(examples), generator=stream)[:count].tolist())
    shift = torch.randint(1, classes, (count,), generator=stream)
    return Examples(copies.token_ids, (copies.labels_n + shift) % classes, copies.pad_id)


def train_and_score(
    simulation: Simulation, mechanism: Mechanism, train: Examples, canaries: Examples, *, steps: int
) -> Tensor:
    """Σ over steps of ⟨released gradient, canary's clipped gradient⟩, per canary."""
    recipe, model = simulation.recipe, simulation.resident.model
    strategy = build(recipe.strategy.name, recipe.strategy.options)
    first = strategy.init(initial_adapter(model, recipe.adapter, seed=recipe.seed))
    load_state(simulation.resident, "audit", first)
    trained = strategy.trains(1) - ({Factor.HEAD} if recipe.train.head == "frozen" else set())
    optimizer = make_optimizer(model, set_trainable(model, trained), recipe.train)
    model.train()

    def loss_on(examples: Examples) -> LossPerExample:
        def loss_per_example(indices: Tensor) -> Tensor:
            with autocast(recipe.model):
                return TASKS[recipe.model.task].loss_per_sample(
                    model, examples.batch(indices.tolist(), device=recipe.model.device)
                )

        return loss_per_example

    loss, canary_loss = loss_on(train), loss_on(canaries)
    scores = torch.zeros(len(canaries), dtype=torch.float64)
    pieces = torch.split(torch.arange(len(canaries)), recipe.train.microbatch_size or recipe.train.batch_size)
    engine = PrivateEngine(
        model, mechanism, examples=len(train), source=SecureSource(), microbatch=recipe.train.microbatch_size
    )
    with engine:
        for _ in range(steps):
            engine.step(loss)
            scores += torch.cat([engine.alignment(piece, canary_loss).cpu() for piece in pieces])
            optimizer.step()
    return scores
