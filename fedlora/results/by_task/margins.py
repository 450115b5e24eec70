"""What a preference task makes of rows one by one: its margin, in nats, the task's own β in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedlora.data.examples import has_loss
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.opened import Opened
from fedlora.tasks.preference import REWARD_MARGIN


@torch.inference_mode()
def margins(opened: Opened, rows: Sequence[Row]) -> list[float | None]:
    """None of a row without one: its answer is cut away, or cannot be read."""
    examples = opened.examples(list(rows), each=True)
    found: list[float | None] = []
    for place, item in enumerate(examples.items):
        if not has_loss(item):
            found.append(None)
            continue
        with autocast(opened.on):
            batch = examples.batch([place], device=opened.on.device)
            found.append(opened.task.measure(opened.model, batch)[REWARD_MARGIN.name].value)
    return found
