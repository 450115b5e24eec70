"""A trainer from round to round: its optimiser, its schedule and the order of its rows.

Trainer builds its schedule again in every `train()`, keeps its optimiser, and draws the same rows in the same order
each time, because its seed is the same: the same 160 examples in every round of FlowerTune's. Here each round has rows
of its own, and what becomes of optimiser and schedule is said:

    reset   every round begins with a new optimiser and its own schedule, as in a recipe
    keep    moments go on, and the schedule is one over all rounds. Where coordinates change from round to round
            (FedSVD, FLoRA) or other parameters train (RoLoRA), moments mean nothing and begin again
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from fedlora.own_apps.records import Order
from fedlora.randomness import seed_of

log = logging.getLogger("fedlora.federated")

Between = Literal["reset", "keep"]


class Continuity:
    """What a trainer carries from one round into the next."""

    def __init__(self, trainer: Any, between_rounds: Between) -> None:
        self._trainer = trainer
        self._keeps = between_rounds == "keep"
        self._own_optimizer = trainer.optimizer is not None
        self._seed = int(trainer.args.seed)
        self._trained: frozenset[str] | None = None
        self._schedule: dict[str, Any] | None = None
        self._rounds = 1
        if self._keeps and trainer.lr_scheduler is None:
            trainer.create_scheduler = self._over_all_rounds(trainer.create_scheduler)

    def before(self, order: Order) -> None:
        """Make the trainer ready for a round; the model is loaded and frozen already."""
        trainer = self._trainer
        seed = seed_of(self._seed, "federated", order.round) % 2**31
        trainer.args.seed = trainer.args.data_seed = seed
        config = getattr(trainer.accelerator, "dataloader_config", None)
        if config is not None:
            config.data_seed = seed
        self._rounds = order.rounds or 1
        trained = frozenset(name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad)
        if not self._keeps or not order.steady or trained != self._trained:
            self._forget()
        self._trained = trained

    def after(self) -> None:
        """Note where the schedule is."""
        scheduler = self._trainer.lr_scheduler
        if self._keeps and scheduler is not None:
            self._schedule = dict(scheduler.state_dict())

    def _forget(self) -> None:
        """No moment of an earlier round is left."""
        if self._trainer.optimizer is None:
            return
        if self._own_optimizer:
            self._trainer.optimizer.state.clear()
        else:
            self._trainer.optimizer = None

    def _over_all_rounds(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def create(num_training_steps: int, optimizer: Any = None) -> Any:
            scheduler = make(num_training_steps * self._rounds, optimizer)
            if self._schedule is not None:
                scheduler.load_state_dict(self._schedule)
                for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                    group["lr"] = rate
            return scheduler

        return create
