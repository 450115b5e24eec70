"""Local steps on the adapter, without privacy and with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fedlora.config import ModelSettings, TrainSettings
from fedlora.examples import Examples, invented
from fedlora.models import autocast
from fedlora.privacy.engine import PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource, Source
from fedlora.tasks import TASKS


def train_adapter(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    stream: torch.Generator,
) -> float:
    """Take `settings.steps` optimiser steps on `parameters`; returns the mean loss per example, in nats.

    The optimiser starts afresh; batches walk through shuffled epochs drawn from `stream`.
    """
    optimizer = make_optimizer(model, parameters, settings)
    model.train()
    loss_nats = 0.0
    for indices in shuffled_batches(len(examples), settings.batch_size, settings.steps, stream):
        loss_nats += accumulate(model, examples, indices, settings, on=on)
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss_nats / settings.steps


def train_adapter_privately(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    mechanism: Mechanism,
    source: Source,
    gradients: Literal["fedlora", "opacus"] = "fedlora",
) -> float | None:
    """Take the steps of `mechanism`; what they leave in `parameters` is differentially private, the result is not.

    Returns the mean loss per drawn example, in nats: private, for whoever may see it; None if no example was drawn.
    Nothing in the data makes it fail: whether a task fails is seen by the coordinator, and no noise covers it.
    """
    optimizer = make_optimizer(model, parameters, settings)
    model.train()
    vocabulary = vocabulary_of(model)
    known = examples.within(vocabulary)
    losses: list[Tensor] = []

    def loss_on(these: Examples, indices: Tensor) -> Tensor:
        batch = these.batch(indices.tolist(), device=on.device)
        with autocast(on):
            return TASKS[on.task].loss_per_sample(model, batch)

    def loss_per_example(indices: Tensor) -> Tensor:
        losses_n = loss_on(known, indices)
        losses.append(losses_n.detach())
        return losses_n

    engine = PrivateEngine(
        model,
        mechanism,
        examples=len(examples),
        source=source,
        microbatch=settings.microbatch_size,
        gradients=gradients,
    )
    with engine:
        engine.rehearse(partial(loss_on, invented(vocabulary, max_tokens=on.max_tokens, pad_id=examples.pad_id)))
        for _ in range(mechanism.steps):
            engine.step(loss_per_example)
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(torch.cat(losses).mean()) if losses else None


def rehearse_privately(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    settings: TrainSettings,
    *,
    on: ModelSettings,
    pad_id: int,
    gradients: Literal["fedlora", "opacus"] = "fedlora",
) -> None:
    """Try a private step on invented examples: what cannot be trained is refused, or fails, before anything is charged.

    Releases nothing, and leaves the model as it was but for its mode, which is that of training.
    """
    model.train()
    pair = invented(vocabulary_of(model), max_tokens=on.max_tokens, pad_id=pad_id)

    def loss_on_pair(indices: Tensor) -> Tensor:
        with autocast(on):
            return TASKS[on.task].loss_per_sample(model, pair.batch(indices.tolist(), device=on.device))

    nobody = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=1.0)
    engine = PrivateEngine(
        model,
        nobody,
        examples=len(pair),
        source=SecureSource(),
        microbatch=settings.microbatch_size,
        gradients=gradients,
    )
    with engine:
        engine.rehearse(loss_on_pair)
    for parameter in parameters:
        parameter.grad = None


def vocabulary_of(model: nn.Module) -> int:
    """How many tokens the base model knows."""
    encoder: Any = model.get_submodule("encoder")
    return int(encoder.get_input_embeddings().num_embeddings)


def accumulate(
    model: nn.Module, examples: Examples, indices: Sequence[int], settings: TrainSettings, *, on: ModelSettings
) -> float:
    """Add the gradient of the batch's mean loss, microbatch by microbatch; returns that loss."""
    size = settings.microbatch_size or len(indices)
    loss_nats = 0.0
    for start in range(0, len(indices), size):
        batch = examples.batch(indices[start : start + size], device=on.device)
        with autocast(on):
            total = TASKS[on.task].loss_per_sample(model, batch).sum() / len(indices)
        torch.autograd.backward(total)
        loss_nats += float(total.detach())
    return loss_nats


def make_optimizer(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """The local optimiser, with the head's own learning rate where one is set."""
    head = {id(parameter) for parameter in model.get_submodule("head").parameters()}
    groups = [
        {"params": [p for p in parameters if id(p) not in head], "lr": settings.lr},
        {"params": [p for p in parameters if id(p) in head], "lr": settings.head_lr or settings.lr},
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
