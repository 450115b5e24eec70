"""A task of which nothing more is known than how it measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fedlora.data.examples import has_loss
from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean


class Unanswered:
    """Judged by its metrics."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return form.columns

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        raise SettingsError(
            f"nothing is predicted with the task {opened.on.task}: fedlora/results/registry.py has no line for it. "
            "`fedlora eval` gives its metrics."
        )

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


@torch.inference_mode()
def measured_each(opened: Opened, rows: Sequence[Row], *, seen: Seen) -> list[dict[str, Mean] | None]:
    """The task's `measure` of every row by itself."""
    found: list[dict[str, Mean] | None] = []
    for chunk in chunks(rows, AT_ONCE):
        examples = opened.examples(list(chunk), each=False)
        for place, item in enumerate(examples.items):
            if has_loss(item):
                with autocast(opened.on):
                    batch = examples.batch([place], device=opened.on.device)
                    found.append(dict(opened.task.measure(opened.model, batch)))
            else:
                found.append(None)
        seen(len(chunk))
    return found
