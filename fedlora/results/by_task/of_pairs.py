"""Which of two answers the model prefers to what its base did: DPO's reward margin, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.by_task.unanswered import measured_each
from fedlora.results.opened import AT_ONCE, Opened, measurable
from fedlora.tasks.preference import REWARD_MARGIN, TIE


class OfPairs:
    """Of the task `preference`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return form.columns

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """prefers: `chosen`, `rejected`, or `neither` within rounding; margin in nats, the task's own β in it."""
        for chunk in chunks(rows, AT_ONCE):
            yield from answers_of(opened, chunk)

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


@torch.inference_mode()
def answers_of(opened: Opened, rows: Sequence[Row]) -> list[Answer]:
    examples = opened.examples(list(rows), each=True)
    found: list[Answer] = []
    for place, item in enumerate(examples.items):
        if not measurable(item):
            found.append({"error": "its answers are cut away, alike, or cannot be read"})
            continue
        with autocast(opened.on):
            batch = examples.batch([place], device=opened.on.device)
            margin = opened.task.measure(opened.model, batch)[REWARD_MARGIN.name].value
        prefers = "neither" if abs(margin) <= TIE else "chosen" if margin > 0 else "rejected"
        found.append({"prefers": prefers, "margin": margin})
    return found
