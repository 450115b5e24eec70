"""One class a row, of texts and of images: the likeliest, and how likely each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fedlora.data.examples import has_loss
from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.judging.class_report import class_report
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.settings import SettingsError
from fedlora.tasks.base import Mean
from fedlora.tasks.classes import OverClasses
from fedlora.tasks.guessing import ACCURACY

TOGETHER = 8 * AT_ONCE
"""Rows that are sorted by length, so that batches of them waste no padding."""


class OfClasses:
    """Of any task over classes (`fedlora.tasks.classes`)."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return tuple(column for column in form.columns if column != form.label)

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """label, probability, and the probability of every class."""
        for chunk in chunks(rows, TOGETHER):
            for logits_c, _ in logits_of(opened, chunk, each=True):
                yield {"error": "the model reads nothing of it"} if logits_c is None else answer(opened, logits_c)

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        each: list[dict[str, Mean] | None] = []
        found: list[Tensor] = []
        truth: list[int] = []
        for chunk in chunks(rows, TOGETHER):
            for logits_c, number in logits_of(opened, chunk, each=False):
                if logits_c is None:
                    each.append(None)
                    continue
                loss = -float(functional.log_softmax(logits_c, -1)[number])
                right = float(int(logits_c.argmax()) == number)
                each.append({"loss": Mean(loss, 1), ACCURACY.name: Mean(right, 1)})
                found.append(logits_c.softmax(-1))
                truth.append(number)
            seen(len(chunk))
        report = class_report(torch.stack(found).numpy(), truth, opened.labels) if found else None
        return Judged(each, {} if report is None else report.as_json())


def answer(opened: Opened, logits_c: Tensor) -> Answer:
    probabilities = logits_c.softmax(-1).tolist()
    best = int(logits_c.argmax())
    of_each = {f"p({label})": share for label, share in zip(opened.labels, probabilities, strict=True)}
    return {"label": opened.labels[best], "probability": probabilities[best], **of_each}


@torch.inference_mode()
def logits_of(opened: Opened, rows: Sequence[Row], *, each: bool) -> list[tuple[Tensor | None, int]]:
    """Of every row in float64 on the CPU, with the number of its class; None where it cannot be read."""
    task = opened.task
    if not isinstance(task, OverClasses):
        raise SettingsError(f"the task {opened.on.task} sorts nothing into classes.")
    examples = opened.examples(list(rows), each=each)
    found: list[tuple[Tensor | None, int]] = [(None, -1)] * len(rows)
    lengths = examples.lengths
    order = sorted((place for place, item in enumerate(examples.items) if has_loss(item)), key=lengths.__getitem__)
    for start in range(0, len(order), AT_ONCE):
        places = order[start : start + AT_ONCE]
        with autocast(opened.on):
            logits_bc = task.logits(opened.model, examples.batch(places, device=opened.on.device)).double().cpu()
        for place, logits_c in zip(places, logits_bc, strict=True):
            found[place] = (logits_c, int(examples.items[place]["labels"]))
    return found
