"""Quality of a model on examples: loss in nats and accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fedlora.config import ModelSettings
from fedlora.models import Batch, autocast
from fedlora.task import Evaluation


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], *, on: ModelSettings) -> Evaluation:
    """Mean loss per example and accuracy, in evaluation mode; the model's mode is left as evaluation."""
    model.eval()
    loss_nats, right, examples = 0.0, 0, 0
    for batch in batches:
        with autocast(on):
            logits_bc = model(batch["input_ids"], batch["attention_mask"]).float()
        labels_b = batch["labels"]
        loss_nats += float(torch.nn.functional.cross_entropy(logits_bc, labels_b, reduction="sum"))
        right += int((logits_bc.argmax(-1) == labels_b).sum())
        examples += len(labels_b)
    if examples == 0:
        raise ValueError("there is no example to evaluate on")
    return Evaluation(loss=loss_nats / examples, accuracy=right / examples, examples=examples)
