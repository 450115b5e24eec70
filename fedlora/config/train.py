"""`train:` what a client does in one round."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fedlora.plugins.names import Kind, is_plug_in, known
from fedlora.settings import Settings

OPTIMIZERS = ("sgd", "adamw")


def known_optimizer(name: str) -> str:
    """The name; ValueError with the nearest where there is no such optimiser. Nothing is imported."""
    return known(Kind.OPTIMIZER, name, OPTIMIZERS)


class TrainSettings(Settings):
    """What a client does in one round."""

    optimizer: Annotated[str, AfterValidator(known_optimizer)] = "adamw"
    """Local optimiser: `adamw`, `sgd`, or a plug-in, which may be any of torch's (`torch.optim:RMSprop`). Its state
    starts afresh every round."""

    lr: float = Field(0.01, gt=0)
    """Learning rate of the adapter: the first setting to change where a run does not learn, or diverges
    (`fedlora find-lr`). SGD wants ten times and more; a large base model a tenth."""

    head_lr: float | None = Field(None, gt=0)
    """Learning rate of the task head; `lr` when not given."""

    head: Literal["train", "frozen"] = "train"
    """Whether the task head is trained and averaged with the adapter."""

    batch_size: int = Field(32, ge=1)
    """Examples per step; under privacy the expected size of a Poisson sample."""

    microbatch_size: int | None = Field(None, ge=1)
    """Former (`fedlora.config.former`): in what pieces a machine computes a batch is its own."""

    steps: int = Field(10, ge=1)
    """Local optimiser steps per round."""

    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the batch gradient (without privacy; with it, every example's gradient is clipped to privacy.clip)."""

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimiser is a plug-in's."""
        return is_plug_in(Kind.OPTIMIZER, self.optimizer, OPTIMIZERS)
