"""Quality of a model on examples: its loss in nats, and the metrics of its task."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from fedlora.config import ModelSettings
from fedlora.config.compute import Computed
from fedlora.data.examples import Examples
from fedlora.devices.memory import with_what_fits
from fedlora.models.base import autocast
from fedlora.models.reference import referred
from fedlora.protocol.task import Evaluation
from fedlora.settings import RunError, SettingsError
from fedlora.tasks.base import Batch, Mean
from fedlora.tasks.registry import task_of

AT_ONCE = 64
"""Examples in a batch, where the machine does not take fewer."""


class DivergedError(RunError):
    """What a model makes of examples is not finite."""


def evaluate_examples(model: nn.Module, examples: Examples, *, by: Computed, each: bool = False) -> Evaluation:
    """Quality on all examples, as this machine computes: `by` is a recipe or a task that is placed on it.

    SettingsError where no example has a loss; DivergedError where a figure is not finite. With `each`, one that the
    model cannot compute is ignored.
    """
    examples = examples.usable_by(model) if each else examples
    if not examples.measurable:
        raise SettingsError(
            f"there is nothing to measure on the {len(examples)} test examples: in none of them is anything left to "
            f"learn once it is cut at model.max_tokens={by.model.max_tokens}; raise it, or test on others."
        )
    size = min(AT_ONCE, by.train.microbatch_size or AT_ONCE)
    ready = referred(model, examples, on=by.model, at_once=size, each=each)

    def in_batches(most: int) -> Evaluation:
        return evaluate(model, ready.evaluation_batches(most, device=by.model.device), on=by.model)

    return with_what_fits(model, ("evaluation", by.model), in_batches, asked=min(size, len(ready)))


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, on: ModelSettings) -> Evaluation:
    """Means over all examples, in evaluation mode; the model's mode is left as evaluation. DivergedError where one is
    not finite."""
    model.eval()
    sums: dict[str, Mean] = {}
    examples = 0
    for batch in batches:
        with autocast(on):
            measured = task_of(on).measure(model, batch)
        sums = {name: sums[name] + mean if name in sums else mean for name, mean in measured.items()}
        examples += len(next(iter(batch.values())))
    if examples == 0:
        raise ValueError("there is no example to evaluate on")
    if wrong := [name for name, mean in sums.items() if mean.weight and not math.isfinite(mean.value)]:
        raise DivergedError(
            f"the model's {wrong[0]} on {examples} test examples is not finite: its adapter has grown without bound. "
            "Lower train.lr, set train.max_grad_norm, or compute in float32 (model.dtype), and begin again."
        )
    return Evaluation.of({name: mean.value for name, mean in sums.items()}, examples=examples)
