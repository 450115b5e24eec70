"""`train:` what a client does in one round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from fedlora.plugins.names import Kind, is_plug_in, known
from fedlora.protocol.versions import Since
from fedlora.settings import Settings

OPTIMIZERS = ("sgd", "adamw")


def known_optimizer(name: str) -> str:
    """The name; ValueError with the nearest where there is no such optimiser. Nothing is imported."""
    return known(Kind.OPTIMIZER, name, OPTIMIZERS)


class TrainSettings(Settings):
    """What a client does in one round."""

    optimizer: Annotated[str, AfterValidator(known_optimizer)] = "adamw"
    """Local optimiser: `adamw`, `sgd`, or a plug-in, which may be any of torch's (`torch.optim:RMSprop`). Its state
    starts afresh every round, unless `optimizer_state` keeps it."""

    optimizer_state: Annotated[Literal["reset", "keep"], Since(2)] = "reset"
    """`keep`: moments (AdamW) and momentum (SGD) go on from round to round, each site's on its own disk. For sites that
    take part in most rounds, and strategies whose factors keep their coordinates."""

    lr: float = Field(0.01, gt=0)
    """Learning rate of the adapter: the first setting to change where a run does not learn, or diverges
    (`fedlora find-lr`). SGD wants ten times and more; a large base model a tenth."""

    head_lr: float | None = Field(None, gt=0)
    """Learning rate of the task head; `lr` when not given."""

    schedule: Annotated[Literal["constant", "linear", "cosine"], Since(2)] = "constant"
    """How learning rates fall over the run, from `lr` to the share `min_lr_rate` of it."""

    schedule_over: Annotated[Literal["rounds", "steps"], Since(2)] = "rounds"
    """What a rate is held for: a round, or one local step of all rounds' together."""

    warmup: Annotated[float, Since(2)] = Field(0.0, ge=0)
    """Begin with smaller rates, in equal steps up to the whole one: for this share of the run (0.1), or for so many
    rounds (3; steps, with `schedule_over: steps`)."""

    min_lr_rate: Annotated[float, Since(2)] = Field(0.1, gt=0, le=1)
    """Share of the learning rate that `linear` and `cosine` end at. Above 0: a step that moves nothing would be paid
    for all the same."""

    head: Literal["train", "frozen"] = "train"
    """Whether the task head is trained and averaged with the adapter."""

    batch_size: int = Field(32, ge=1)
    """Examples per step; under privacy the expected size of a Poisson sample. How many of them are in memory at once is
    each machine's own (`microbatch`): gradients are accumulated, and the step is the same."""

    microbatch_size: int | None = Field(None, ge=1)
    """Former (`fedlora.config.former`): in what pieces a machine computes a batch is its own."""

    steps: int | None = Field(10, ge=1)
    """Local optimiser steps per round; none with `local_epochs`."""

    local_epochs: Annotated[int | None, Since(2)] = Field(None, ge=1)
    """In place of `steps`: how often a client goes through all of its rows in a round. Not with privacy: the number of
    private steps must not tell the number of rows."""

    order: Annotated[Literal["fresh", "continue"], Since(2)] = "fresh"
    """Rows of a round: from the start of an epoch of its own (`fresh`), or on from where the round before has ended, so
    that a client sees each of its rows once before it sees any twice (`continue`)."""

    packing: Annotated[bool, Since(2)] = False
    """Texts that are computed at once share rows, and none sees another: less padding, and the same step up to
    rounding. Of causal-lm, without privacy."""

    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""

    proximal_mu: Annotated[float, Since(2)] = Field(0.0, ge=0, le=1e6)
    """μ of FedProx: adds μ/2 ‖w - w_received‖² to every client's loss, w being what it trains and sends."""

    max_grad_norm: float | None = Field(None, gt=0)
    """Clip the batch gradient (without privacy; with it, every example's gradient is clipped to privacy.clip)."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_need_no_steps(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("local_epochs") is not None and "steps" not in values:
            return {**values, "steps": None}
        return values

    @model_validator(mode="after")
    def _one_length(self) -> TrainSettings:
        if (self.steps is None) == (self.local_epochs is None):
            raise ValueError(
                "train.steps and train.local_epochs are two ways to say how long a round trains, give one: "
                "train.local_epochs without train.steps (steps: null takes a recipe's away), or train.steps alone."
            )
        return self

    @field_validator("warmup")
    @classmethod
    def _share_or_number(cls, warmup: float) -> float:
        if warmup >= 1 and warmup != int(warmup):
            raise ValueError(
                f"train.warmup is a share of the run below 1, such as 0.1, or a whole number of rounds; got {warmup:g}."
            )
        return warmup

    @model_validator(mode="after")
    def _knows_what_it_keeps(self) -> TrainSettings:
        if self.optimizer_state == "keep" and self.has_own_optimizer:
            raise ValueError(
                f"train.optimizer_state=keep knows what {' and '.join(OPTIMIZERS)} remember, and nothing of "
                f"{self.optimizer}; use one of them, or train.optimizer_state=reset."
            )
        return self

    @model_validator(mode="after")
    def _comes_back(self) -> TrainSettings:
        pull = self.proximal_mu * max(self.lr, self.head_lr or self.lr)
        if self.optimizer == "sgd" and pull >= 2:
            raise ValueError(
                f"train.proximal_mu times the learning rate is {pull:g}: from 2 on SGD's steps overshoot what was "
                "received ever further; lower train.proximal_mu or the rate."
            )
        return self

    @property
    def counted_steps(self) -> int:
        """`steps`, where a round is counted in them: ValueError with local_epochs, whose number only a site knows."""
        if self.steps is None:
            raise ValueError("train.local_epochs counts no steps; set train.steps in its place.")
        return self.steps

    @property
    def has_own_optimizer(self) -> bool:
        """Whether the optimiser is a plug-in's."""
        return is_plug_in(Kind.OPTIMIZER, self.optimizer, OPTIMIZERS)
