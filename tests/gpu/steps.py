"""A LoRA step without and with privacy: tokens a second, share of the peak, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from client.steps.optimizer import make_optimizer
from client.training import Protection, accumulate, private_steps
from fedlora.adapters import set_trainable
from fedlora.config import ModelSettings, TrainSettings
from fedlora.devices.memory import fitting, make_room
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.noise import SecureSource
from fedlora.privacy.refusal import Refusal
from fedlora.updates import Factor
from tests.gpu.shapes import SHAPES, Shape, adapted, examples_of, flops_of_a_token, settings_of
from tests.gpu.timed import Box, forget_peak, peak_mib, seconds_of, waited

Row = dict[str, Any]
WAYS = {"plain": (Factor.A, Factor.B), "private A+B": (Factor.A, Factor.B), "private B": (Factor.B,)}
LOAD_DTYPES = ("bfloat16", "nf4")
CASE_S = 12.0
"""Room that one case is begun with."""


def peak_flops(device: str, size: str) -> float:
    """FLOP/s of one large bfloat16 product of random numbers: what a step is held against."""
    side = 8192 if size == "full" else 64
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, warm=3, most=10)


def steps(device: str, size: str, box: Box) -> Iterator[Row]:
    peak = peak_flops(device, size)
    yield {"what": "peak", "tflops": peak / 1e12}
    for load_dtype in LOAD_DTYPES:
        for shape in SHAPES[size]:
            if not box.has(CASE_S):
                yield {"what": "step", "shape": shape.name, "load_dtype": load_dtype, "left out": "no time"}
                continue
            try:
                model = adapted(shape, device, load_dtype)
            except ImportError as error:
                yield {"what": "step", "shape": shape.name, "load_dtype": load_dtype, "left out": str(error)}
                continue
            yield from of_model(model, shape, device, load_dtype, peak, box)
            del model
            make_room()


def of_model(model: Any, shape: Shape, device: str, load_dtype: str, peak: float, box: Box) -> Iterator[Row]:
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        for way in WAYS:
            told = {"what": "step", "shape": shape.name, "load_dtype": load_dtype, "way": way}
            told |= {"checkpointing": checkpointing, "rows": shape.rows, "tokens": shape.tokens}
            if not box.has(CASE_S):
                yield told | {"left out": "no time"}
                continue
            on = settings_of(shape, device, load_dtype, checkpointing=checkpointing)
            forget_peak(device)
            try:
                taken_s, at_once = timed_step(model.train(), shape, on, way)
            except Refusal as refusal:
                yield told | {"refused": str(refusal)}
                continue
            flops = flops_of_a_token(shape, model, checkpointing=checkpointing)
            rate = shape.rows * shape.tokens / taken_s
            yield told | {
                "seconds": taken_s, "tokens_s": rate, "mfu": rate * flops / peak, "peak_mib": peak_mib(device),
                "rows at once": at_once,
            }  # fmt: skip


def timed_step(model: nn.Module, shape: Shape, on: ModelSettings, way: str) -> tuple[float, int]:
    """Seconds of a step, optimiser, sampling and noise included, and how many rows memory was there for."""
    train = TrainSettings(optimizer="adamw", lr=1e-4, batch_size=shape.rows)
    trained = set_trainable(model, WAYS[way])
    optimizer, examples = make_optimizer(model, trained, train), examples_of(shape, shape.rows)
    if way == "plain":

        def step() -> None:
            accumulate(model, examples, range(shape.rows), train, on=on)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return seconds_of(step, on.device), fitting(model, ("steps", on), asked=shape.rows)
    mechanism = Mechanism(rate=1.0, noise_multiplier=1.0, clip=1.0, steps=10**6, expected_batch=shape.rows)
    protection = Protection(mechanism, SecureSource())
    with private_steps(model, examples, train, on=on, protection=protection) as (engine, loss):

        def private() -> None:
            engine.step(loss)
            optimizer.step()

        found = seconds_of(private, on.device)
    waited(on.device)
    return found, shape.rows
