"""Local steps on the adapter, without privacy and with it."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from client.work import NotFiniteError, Steps
from fedlora.adapters.dense import dense_parameters
from fedlora.adapters.inject import ADAPTER, adapted_layers
from fedlora.config import ModelSettings, TrainSettings
from fedlora.data.examples import COMPANIES, Examples, invented
from fedlora.models.base import autocast, computes_in
from fedlora.models.memory import fitting, with_what_fits
from fedlora.models.reference import referred
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import Source

log = logging.getLogger(__name__)


def train_adapter(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    stream: torch.Generator,
) -> Steps:
    """Take `settings.steps` optimiser steps on `parameters`, but for those whose loss or gradient is not finite.

    The optimiser starts afresh; batches walk through shuffled epochs drawn from `stream`. NotFiniteError where no step
    was left to take.
    """
    batches = list(shuffled_batches(len(examples), settings.batch_size, settings.steps, stream))
    drawn, size = itertools.chain.from_iterable(batches), largest_microbatch(settings)
    examples = referred(model, examples, on=on, at_once=size, only=drawn)
    optimizer = make_optimizer(model, parameters, settings)
    model.train()
    loss_nats, taken = 0.0, 0
    for indices in batches:
        batch_nats = accumulate(model, examples, indices, settings, on=on)
        if finite(batch_nats, parameters):
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            loss_nats, taken = loss_nats + batch_nats, taken + 1
        optimizer.zero_grad(set_to_none=True)
    return steps_taken(loss_nats, taken, settings)


def steps_taken(loss_nats: float, taken: int, settings: TrainSettings) -> Steps:
    """What is told of the steps; `loss_nats` is the sum over those that were taken."""
    skipped = settings.steps - taken
    if not taken:
        raise NotFiniteError(
            f"no step of {settings.steps} had a finite loss and gradient, so that nothing was learnt: train.lr="
            f"{settings.lr:g} is too large for this model, or the adapter that was received has grown without bound. "
            "Lower train.lr, set train.max_grad_norm, or compute in float32 (model.dtype)."
        )
    if skipped:
        log.warning("%d of %d steps skipped: their loss or gradient was not finite", skipped, settings.steps)
    return Steps(loss_nats / taken, skipped)


def finite(loss_nats: float, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the loss is finite, and every number of the gradient."""
    each = [parameter.grad.isfinite().all() for parameter in parameters if parameter.grad is not None]
    return math.isfinite(loss_nats) and (not each or bool(torch.stack(each).all()))


@dataclass(frozen=True)
class Protection:
    """What makes steps private: the mechanism that was charged, where its noise comes from, and which engine has the
    gradients of single examples."""

    mechanism: Mechanism
    source: Source
    gradients: Literal["fedlora", "opacus"] = "fedlora"


def train_adapter_privately(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    protection: Protection,
) -> float | None:
    """Take the steps of the mechanism; what they leave in `parameters` is differentially private, the result is not.

    Returns the mean loss per drawn example, in nats: private, for whoever may see it; None if no example was drawn.
    Nothing in the data makes it fail: whether a task fails is seen by the coordinator, and no noise covers it.
    """
    optimizer = make_optimizer(model, parameters, settings)
    losses: list[Tensor] = []
    private = private_steps(model, examples, settings, on=on, protection=protection)
    with private as (engine, loss_of):

        def loss_per_example(indices: Tensor) -> Tensor:
            losses_n = loss_of(indices)
            losses.append(losses_n.detach())
            return losses_n

        for _ in range(protection.mechanism.steps):
            engine.step(loss_per_example)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(torch.cat(losses).mean()) if losses else None


@contextmanager
def private_steps(
    model: nn.Module,
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    protection: Protection,
) -> Iterator[tuple[PrivateEngine, LossPerExample]]:
    """The engine, rehearsed on short texts, and the loss that its steps take: what private training is made of."""
    examples = referred(model, examples, on=on, at_once=largest_microbatch(settings), each=True)
    engine = PrivateEngine(
        model,
        protection.mechanism,
        examples=len(examples),
        source=protection.source,
        microbatch=private_microbatch(model, settings, on),
        gradients=protection.gradients,
        shapes=examples.shapes(most=on.max_tokens),
        computes_in=computes_in(on),
    )
    require_no_dropout(adapter_dropout(model))
    with engine:
        engine.rehearse(loss_on(model, invented(model, on=on, padding=examples.padding), on), COMPANIES[:1])
        yield engine, loss_on(model, examples.usable_by(model), on)


def loss_on(model: nn.Module, examples: Examples, on: ModelSettings) -> LossPerExample:
    """The losses of examples by index, each padded to its own public length: give it indices of one length."""
    lengths = examples.shapes(most=on.max_tokens)

    def loss_per_example(indices: Tensor) -> Tensor:
        chosen = indices.tolist()
        batch = examples.batch(chosen, length=max(lengths[index] for index in chosen), device=on.device)
        with autocast(on):
            return examples.task.losses(model, batch)

    return loss_per_example


def largest_microbatch(settings: TrainSettings) -> int:
    """Under privacy a Poisson sample may be larger than `batch_size`: it is then computed in pieces of that size."""
    return settings.microbatch_size or settings.batch_size


def private_microbatch(model: nn.Module, settings: TrainSettings, on: ModelSettings) -> int:
    """The same, or less where memory ended: as the rehearsal found on invented examples, and no example of a site."""
    return fitting(model, private_work(on), asked=largest_microbatch(settings))


def private_work(on: ModelSettings) -> tuple[str, ModelSettings]:
    """What `fedlora.models.memory` knows private steps by."""
    return "private steps", on


def adapter_dropout(model: nn.Module) -> float:
    """The largest probability of dropout in front of an adapter's A."""
    layers = adapted_layers(model)
    return max((float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0)) for _, layer in layers), default=0.0)


def accumulate(
    model: nn.Module, examples: Examples, indices: Sequence[int], settings: TrainSettings, *, on: ModelSettings
) -> float:
    """Add the gradient of the batch's mean loss, microbatch by microbatch; returns that loss.

    A batch that memory is too small for begins again in smaller pieces: what was added of it is taken back.
    """
    before = {p: None if p.grad is None else p.grad.clone() for p in model.parameters() if p.requires_grad}

    def in_pieces(size: int) -> float:
        loss_nats = 0.0
        for parameter, gradient in before.items():
            parameter.grad = None if gradient is None else gradient.clone()
        for start in range(0, len(indices), size):
            batch = examples.batch(indices[start : start + size], device=on.device)
            with autocast(on):
                total = examples.task.losses(model, batch).sum() / len(indices)
            torch.autograd.backward(total)
            loss_nats += float(total.detach())
        return loss_nats

    asked = min(settings.microbatch_size or len(indices), len(indices))
    return with_what_fits(model, ("steps", on), in_pieces, asked=asked)


def make_optimizer(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """The local optimiser; what trains whole has its own learning rate where one is set."""
    dense = {id(parameter) for parameter in dense_parameters(model).values()}
    groups = [
        {"params": [p for p in parameters if id(p) not in dense], "lr": settings.lr},
        {"params": [p for p in parameters if id(p) in dense], "lr": settings.head_lr or settings.lr},
    ]
    used = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(used, lr=settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(used, lr=settings.lr, momentum=settings.momentum)


def shuffled_batches(examples: int, size: int, steps: int, stream: torch.Generator) -> Iterator[list[int]]:
    """`steps` batches of `size` indices (or all, where there are fewer), epoch after epoch in fresh orders.

    >>> [len(batch) for batch in shuffled_batches(5, 2, 4, torch.Generator().manual_seed(0))]
    [2, 2, 2, 2]
    """
    waiting: list[int] = []
    size = min(size, examples)
    for _ in range(steps):
        if len(waiting) < size:
            waiting = torch.randperm(examples, generator=stream).tolist()
        yield waiting[:size]
        waiting = waiting[size:]
