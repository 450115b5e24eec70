"""Before private steps are charged: everything that they can fail by is tried, on invented examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from client.steps.optimizer import make_optimizer
from client.training import adapter_dropout, largest_microbatch, loss_on, private_work, rehearsed_on
from fedlora.adapters import set_trainable
from fedlora.config import ModelSettings, TrainSettings
from fedlora.config.privacy import PrivacySettings
from fedlora.config.schedule import schedule_of
from fedlora.data.examples import COMPANIES, invented
from fedlora.devices.draws import draws_apart
from fedlora.devices.memory import fitting, with_what_fits
from fedlora.models.base import computes_in
from fedlora.privacy.dropout import require_no_dropout
from fedlora.privacy.engine import LossPerExample, PrivateEngine
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource
from fedlora.privacy.refusal import Code, Refusal
from fedlora.processes.memory import ran_out_of_memory
from fedlora.updates import Factor


def rehearse_task(
    model: nn.Module,
    factors: Iterable[Factor],
    settings: TrainSettings,
    *,
    on: ModelSettings,
    privacy: PrivacySettings,
    padding: int,
    rounds: int,
) -> None:
    """Raise a Refusal where private steps on these factors would do nothing, in any of the recipe's rounds, or are
    refused: needs no data."""
    parameters = set_trainable(model, factors)
    schedule = schedule_of(settings, rounds=rounds, steps=settings.counted_steps)
    require_moving(model, parameters, settings, clip=privacy.clip, least=schedule.least)
    if settings.has_own_optimizer:
        require_stepping(model, parameters, settings)
    with draws_apart():
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
    largest microbatch, or the largest that fits in memory: steps begin with what was found here. Raises Refusal; the
    values that `parameters` have are tried too, so call it with the adapter of the round. What is left to fail
    afterwards is an example by itself, and counts as zero.
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
    engine = PrivateEngine(
        model, mechanism, examples=len(texts), source=SecureSource(), gradients=gradients,
        computes_in=computes_in(on),
    )  # fmt: skip
    try:
        loss = loss_on(model, rehearsed_on(model, on=on, padding=padding), on)
        with engine:
            engine.rehearse(loss, COMPANIES)
            what = (gradients, *(parameter.shape for parameter in parameters))
            rehearse_largest(engine, model, loss, settings, on=on, what=what)
    except Refusal:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the model cannot be trained on texts of {on.max_tokens} tokens: {type(error).__name__}: {error}; lower "
            "model.max_tokens, or choose another model.",
        ) from error
    finally:
        for parameter in parameters:
            parameter.grad = None


def rehearse_largest(
    engine: PrivateEngine,
    model: nn.Module,
    loss: LossPerExample,
    settings: TrainSettings,
    *,
    on: ModelSettings,
    what: tuple[object, ...],
) -> None:
    """Once a process, model and `what`: the largest microbatch, or the largest that memory is there for."""

    def whole(size: int) -> None:
        engine.rehearse_whole_batch(loss, [COMPANIES[1][0], *[COMPANIES[1][1]] * (size - 1)])

    tried, work, asked = _TRIED.setdefault(model, set()), private_work(on), largest_microbatch(settings)
    if (on, what, fitting(model, work, asked=asked)) not in tried:
        with_what_fits(model, work, whole, asked=asked)
        tried.add((on, what, fitting(model, work, asked=asked)))


def require_moving(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings, *, clip: float, least: float = 1.0
) -> None:
    """Refuse a learning rate that is not finite, or with which a step of C (of AdamW: of 1) leaves a parameter as it is
    in float32, at the `least` share of it that the run comes to. What is then released would be nothing, and paid
    for."""
    for group in make_optimizer(model, parameters, settings).param_groups:
        rate = least * group["lr"]
        step = rate * {"adamw": 1.0, "sgd": clip}.get(settings.optimizer, max(1.0, clip))
        for parameter in group["params"]:
            if not math.isfinite(step) or torch.equal(parameter.detach() + step, parameter):
                scheduled = "" if least == 1.0 else ", the smallest of the schedule,"
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"a learning rate of {rate:g}{scheduled} with privacy.clip {clip} does not change the weights in "
                    "float32, or is not finite; set another train.lr or train.head_lr.",
                )


def require_stepping(model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings) -> None:
    """Refuse a plug-in's optimiser that cannot take a step as they are taken here, by one whose gradients are zero.
    Parameters are afterwards what they were."""
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        make_optimizer(model, parameters, settings).step()
    except Exception as error:  # whatever a stranger's code raises
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the optimiser {settings.optimizer} cannot take a step ({type(error).__name__}: {error}): it is called "
            "without a closure, with a gradient in every parameter. Use another train.optimizer.",
        ) from error
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
                parameter.grad = None


_TRIED: WeakKeyDictionary[nn.Module, set[tuple[object, ...]]] = WeakKeyDictionary()
"""The largest microbatches that went through: their memory does not depend on values, so once a process is enough."""
