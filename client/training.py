"""Local steps on the adapter, without privacy and with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from client.limits import OUT_OF_MEMORY, code_of
from fedlora.adapters import set_trainable
from fedlora.adapters.dense import dense_parameters
from fedlora.adapters.inject import ADAPTER, adapted_layers
from fedlora.config import ModelSettings, TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.data.examples import COMPANIES, Examples, invented
from fedlora.models.base import autocast, computes_in
from fedlora.models.reference import referred
from fedlora.plugins.optimizers import plug_in_optimizer
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource, Source
from fedlora.privacy.refusal import Code, Refusal
from fedlora.updates import Factor


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
    batches = list(shuffled_batches(len(examples), settings.batch_size, settings.steps, stream))
    drawn, size = itertools.chain.from_iterable(batches), largest_microbatch(settings)
    examples = referred(model, examples, on=on, at_once=size, only=drawn)
    optimizer = make_optimizer(model, parameters, settings)
    model.train()
    loss_nats = 0.0
    for indices in batches:
        loss_nats += accumulate(model, examples, indices, settings, on=on)
        if settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss_nats / settings.steps


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
        microbatch=largest_microbatch(settings),
        gradients=protection.gradients,
        shapes=examples.shapes(most=on.max_tokens),
        computes_in=computes_in(on),
    )
    require_no_dropout(adapter_dropout(model))
    with engine:
        engine.rehearse(loss_on(model, invented(model, on=on, padding=examples.padding), on), COMPANIES[:1])
        yield engine, loss_on(model, examples.usable_by(model), on)


def rehearse_task(
    model: nn.Module,
    factors: Iterable[Factor],
    settings: TrainSettings,
    *,
    on: ModelSettings,
    privacy: PrivacySettings,
    padding: int,
) -> None:
    """Raise a Refusal where private steps on these factors would do nothing, or are refused: needs no data."""
    parameters = set_trainable(model, factors)
    require_moving(model, parameters, settings, clip=privacy.clip)
    with torch.random.fork_rng(devices=[]):
        rehearse_privately(model, parameters, settings, on=on, padding=padding, gradients=privacy.engine)


def rehearse_privately(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    settings: TrainSettings,
    *,
    on: ModelSettings,
    padding: int,
    gradients: Literal["fedlora", "opacus"] = "fedlora",
) -> None:
    """Try, before a site is charged, everything that its private steps can fail by: on invented examples, none of it.

    Forward and backward in the mode that trains, on texts of `on.max_tokens`, and once a process and model in the
    largest microbatch. Raises Refusal; the values that `parameters` have are tried too, so call it with the adapter of
    the round. What is left to fail afterwards is an example by itself, and counts as zero.
    """
    require_no_dropout(adapter_dropout(model))
    texts = invented(model, on=on, padding=padding)
    if not texts.task.pads_with(model, padding):
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the tokenizer pads with token {padding}, which is not in the model's vocabulary, so "
            "batches cannot be padded; use a tokenizer whose pad_token is one of the model's own.",
        )
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=1, expected_batch=1.0)  # no step is taken
    size = largest_microbatch(settings)
    tried = (on, gradients, size, tuple(parameter.shape for parameter in parameters))
    engine = PrivateEngine(
        model, mechanism, examples=len(texts), source=SecureSource(), gradients=gradients,
        computes_in=computes_in(on),
    )  # fmt: skip
    try:
        with engine:
            loss = loss_on(model, texts, on)
            engine.rehearse(loss, COMPANIES)
            if tried not in _TRIED.setdefault(model, set()):
                engine.rehearse_whole_batch(loss, [COMPANIES[1][0], *[COMPANIES[1][1]] * (size - 1)])
                _TRIED[model].add(tried)
    except Refusal:
        raise
    except Exception as error:
        if code_of(error) == OUT_OF_MEMORY:
            raise
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the model cannot be trained on texts of {on.max_tokens} tokens: {type(error).__name__}: {error}; lower "
            "model.max_tokens, or choose another model.",
        ) from error
    finally:
        for parameter in parameters:
            parameter.grad = None


def require_moving(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings, *, clip: float
) -> None:
    """Refuse a learning rate that is not finite, or with which a step of C (of AdamW: of 1) leaves a parameter as it is
    in float32. What is then released would be nothing, and paid for."""
    for group in make_optimizer(model, parameters, settings).param_groups:
        longest = {"adamw": 1.0, "sgd": clip}.get(settings.optimizer, max(1.0, clip))
        step = group["lr"] * longest
        for parameter in group["params"]:
            if not math.isfinite(step) or torch.equal(parameter.detach() + step, parameter):
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"a learning rate of {group['lr']} with privacy.clip {clip} does not change the weights in "
                    "float32, or is not finite; set another train.lr or train.head_lr.",
                )


_TRIED: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""The largest microbatches that went through: their memory does not depend on values, so once a process is enough."""


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


def adapter_dropout(model: nn.Module) -> float:
    """The largest probability of dropout in front of an adapter's A."""
    layers = adapted_layers(model)
    return max((float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0)) for _, layer in layers), default=0.0)


def accumulate(
    model: nn.Module, examples: Examples, indices: Sequence[int], settings: TrainSettings, *, on: ModelSettings
) -> float:
    """Add the gradient of the batch's mean loss, microbatch by microbatch; returns that loss."""
    size = settings.microbatch_size or len(indices)
    loss_nats = 0.0
    for start in range(0, len(indices), size):
        batch = examples.batch(indices[start : start + size], device=on.device)
        with autocast(on):
            total = examples.task.losses(model, batch).sum() / len(indices)
        torch.autograd.backward(total)
        loss_nats += float(total.detach())
    return loss_nats


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
    if settings.has_own_optimizer:
        return plug_in_optimizer(used, settings)
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
