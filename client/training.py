"""Local steps on the adapter, without privacy and with it."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from client.steps.order import batches_of
from client.steps.stepper import Live, Pace, Stepper
from client.work import NotFiniteError, Steps
from fedlora.adapters.inject import ADAPTER, adapted_layers
from fedlora.config import ModelSettings, TrainSettings
from fedlora.data.examples import COMPANIES, Examples, invented
from fedlora.devices.memory import fitting, with_what_fits
from fedlora.devices.transfers import read_together
from fedlora.models.base import autocast, computes_in
from fedlora.models.reference import referred
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import Source

log = logging.getLogger(__name__)


def train_adapter(
    model: nn.Module,
    live: Live,
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    pace: Pace,
) -> Steps:
    """Take a round's optimiser steps on what is `live`, each on the rows that `client.steps.order` gives it.

    A step whose loss or gradient is not finite is skipped and counted. NotFiniteError where no step was left to take.
    """
    batches = batches_of(settings, len(examples), pace.turn)
    drawn, size = itertools.chain.from_iterable(batches), largest_microbatch(settings)
    examples = referred(model, examples, on=on, at_once=size, only=drawn)
    stepper = Stepper(model, live, settings, pace, steps=len(batches))
    model.train()
    of_steps: list[tuple[float, Tensor]] = []
    for indices in batches:
        batch_nats = accumulate(model, examples, indices, settings, on=on)
        if not finite(batch_nats, live.values()):
            stepper.skip()
            continue
        of_steps.append((len(indices) / len(batches[0]), batch_nats))
        stepper.step(most_norm=settings.max_grad_norm)
    skipped = len(batches) - len(of_steps)
    tell_of_skipped(skipped, settings, of=len(batches))
    return Steps(mean_of_steps(of_steps), stepper.moments, skipped)


def mean_of_steps(of_steps: Sequence[tuple[float, Tensor]]) -> float:
    """Mean loss in nats of batches that were taken, each with its share of a whole batch: read once a round."""
    found = read_together(*(loss_nats for _, loss_nats in of_steps))
    loss_nats = weight = 0.0
    for (share, _), batch_nats in zip(of_steps, found, strict=True):
        loss_nats += share * batch_nats
        weight += share
    return loss_nats / weight


def tell_of_skipped(skipped: int, settings: TrainSettings, *, of: int) -> None:
    """Say in the log how many steps were skipped; NotFiniteError if all were."""
    if skipped == of:
        raise NotFiniteError(
            f"no step of {of} had a finite loss and gradient, so that nothing was learnt: train.lr={settings.lr:g} "
            "is too large for this model, or the adapter that was received has grown without bound. Lower train.lr, "
            "set train.max_grad_norm, or compute in float32 (model.dtype)."
        )
    if skipped:
        log.warning("%d of %d steps skipped: their loss or gradient was not finite", skipped, of)


def finite(loss_nats: Tensor | float, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether the loss is finite, and every number of the gradient: the one reading of a step."""
    each = [parameter.grad.isfinite().all() for parameter in parameters if parameter.grad is not None]
    loss = torch.as_tensor(loss_nats).isfinite()
    return bool(torch.stack([loss.to(each[0].device) if each else loss, *each]).all())


@dataclass(frozen=True)
class Protection:
    """What makes steps private: the mechanism that was charged, where its noise comes from, and which engine has the
    gradients of single examples."""

    mechanism: Mechanism
    source: Source
    gradients: Literal["fedlora", "opacus"] = "fedlora"


def train_adapter_privately(
    model: nn.Module,
    live: Live,
    examples: Examples,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    protection: Protection,
    pace: Pace,
) -> Steps:
    """Take the steps of the mechanism; what they leave in `live` is differentially private, and so are the moments.

    The loss is private, for whoever may see it. Rates and terms depend on no example, and come after the noise.
    Nothing in the data makes it fail: whether a task fails is seen by the coordinator, and no noise covers it.
    """
    steps = protection.mechanism.steps
    stepper = Stepper(model, live, settings, pace, steps=steps)
    losses: list[Tensor] = []
    private = private_steps(model, examples, settings, on=on, protection=protection)
    with private as (engine, loss_of):

        def loss_per_example(indices: Tensor) -> Tensor:
            losses_n = loss_of(indices)
            losses.append(losses_n.detach())
            return losses_n

        for _ in range(steps):
            engine.step(loss_per_example)
            stepper.step()
    return Steps(mean_loss(losses), stepper.moments)


def mean_loss(losses: Sequence[Tensor]) -> float | None:
    """Of every example that was drawn (each (n,), in nats); None of none, and where one is not finite, which no report
    can say: its gradient has counted as zero, and the task is done."""
    mean_nats = float(torch.cat(list(losses)).mean()) if losses else math.nan
    return mean_nats if math.isfinite(mean_nats) else None


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
    texts = rehearsed_on(model, on=on, padding=examples.padding)
    with engine:
        engine.rehearse(loss_on(model, texts, on), COMPANIES[:1])
        yield engine, loss_on(model, examples.usable_by(model), on)


def rehearsed_on(model: nn.Module, *, on: ModelSettings, padding: int) -> Examples:
    """Invented examples with what their task takes from the base, as a site's have it. Without, a loss of gains on the
    base is flat at their first try, and nothing would be seen of what couples them."""
    return referred(model, invented(model, on=on, padding=padding), on=on, at_once=1)


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
    """What `fedlora.devices.memory` knows private steps by."""
    return "private steps", on


def adapter_dropout(model: nn.Module) -> float:
    """The largest probability of dropout in front of an adapter's A."""
    layers = adapted_layers(model)
    return max((float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0)) for _, layer in layers), default=0.0)


def accumulate(
    model: nn.Module, examples: Examples, indices: Sequence[int], settings: TrainSettings, *, on: ModelSettings
) -> Tensor:
    """Add the gradient of the batch's mean loss, microbatch by microbatch; returns that loss (float64, on the device).

    A batch that memory is too small for begins again in smaller pieces: what was added of it is taken back.
    """
    before = {p: None if p.grad is None else p.grad.clone() for p in model.parameters() if p.requires_grad}

    def in_pieces(size: int) -> Tensor:
        loss_nats = torch.zeros((), dtype=torch.float64, device=on.device)
        for parameter, gradient in before.items():
            parameter.grad = None if gradient is None else gradient.clone()
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            if settings.packing:
                batch = examples.packed(piece, device=on.device)
            else:
                batch = examples.batch(piece, device=on.device)
            with autocast(on):
                total = examples.task.losses(model, batch).sum() / len(indices)
            torch.autograd.backward(total)
            loss_nats += total.detach()
        return loss_nats

    asked = min(settings.microbatch_size or len(indices), len(indices))
    return with_what_fits(model, ("steps", on), in_pieces, asked=asked)
