"""Quality of a model on examples: loss in nats and accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fedlora.config import ModelSettings
from fedlora.models.base import autocast
from fedlora.protocol.task import Evaluation
from fedlora.tasks import TASKS, Batch


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, on: ModelSettings) -> Evaluation:
    """Mean loss per example and accuracy, in evaluation mode; the model's mode is left as evaluation."""
    model.eval()
    loss_nats, right, examples = 0.0, 0, 0
    for batch in batches:
        with autocast(on):
            loss_b, right_b = TASKS[on.task].score(model, batch)
        loss_nats += float(loss_b.sum())
        right += int(right_b.sum())
        examples += len(loss_b)
    if examples == 0:
        raise ValueError("there is no example to evaluate on")
    return Evaluation(loss=loss_nats / examples, accuracy=right / examples, examples=examples)
