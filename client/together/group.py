"""Clients that train together: one model, their own adapters in it, one optimiser over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from client.steps.stepper import Pace, Stepper
from client.work import Work
from fedlora.adapters.stacked import Stack
from fedlora.config import ModelSettings, TrainSettings


@dataclass(frozen=True)
class Group:
    """Works of one kind (`client.together.groups.alike`), on their model."""

    stack: Stack
    works: Sequence[Work]
    pace: Pace
    """Rates and terms: those of any of them."""
    most_rows: int
    """In one pass."""
    streams: Sequence[torch.Generator] | None = None
    """What each client's dropout draws from; None where nothing drops out."""

    @property
    def model(self) -> nn.Module:
        return self.works[0].home.model

    @property
    def train(self) -> TrainSettings:
        return self.works[0].placed.train

    @property
    def on(self) -> ModelSettings:
        return self.works[0].placed.model


class GroupStepper(Stepper):
    """One optimiser over all clients' parameters: AdamW and SGD treat every number by itself, and so do terms."""

    def _clip(self, most_norm: float) -> None:
        """Every client's gradient to the norm, as torch's `clip_grad_norm_` does it for one."""
        gradients = [parameter.grad for parameter in self._live.values() if parameter.grad is not None]
        norms_k = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factors_k = (most_norm / (norms_k + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors_k.view(-1, *[1] * (gradient.dim() - 1)))
