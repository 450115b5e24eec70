"""One client's round in a run: all that its order of rows, its rates and its random draws depend on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedlora.protocol.task import Task
from fedlora.randomness import generator


@dataclass(frozen=True)
class Turn:
    """A round at a client."""

    seed: int
    client: str
    number: int
    """The round, from 1."""
    rounds: int
    """How many the recipe has."""

    @classmethod
    def of(cls, task: Task, client: str) -> Turn:
        return cls(task.seed, client, task.round, task.planned_rounds)

    @property
    def address(self) -> tuple[object, ...]:
        """Of this round's random draws."""
        return ("client", self.client, "round", self.number)

    def stream(self, purpose: str) -> torch.Generator:
        """A random stream of this round's own."""
        return generator(self.seed, *self.address, purpose)

    def epoch(self, number: int) -> torch.Generator:
        """The random stream of one epoch of this client's, whatever round goes through it."""
        return generator(self.seed, "client", self.client, "epoch", number)
