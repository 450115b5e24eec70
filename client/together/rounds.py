"""A round at several sites of one process (`client.round`): all are admitted, then trained together, then each ends its
own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from client.round import admit, failure, finish
from client.site import Site
from client.together.trainer import Together
from client.work import Work
from fedlora.privacy.guard import Answer
from fedlora.protocol.task import Report, Task

Asked = tuple[Task, bytes, Site]
Answered = tuple[Report, bytes | None]


def answer_together(asked: Sequence[Asked], trainer: Together) -> list[Answered]:
    """One answer for each, in order, as `client.round.answer` gives it; the time is shared among them."""
    started = time.monotonic()
    begun = [admitted(*one) for one in asked]
    works = [work for work in begun if isinstance(work, Work)]
    outcomes = iter(trainer.outcomes(works))
    answers = []
    for (task, _, site), work in zip(asked, begun, strict=True):
        if not isinstance(work, Work):
            answers.append(work)
            continue
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            answers.append((failure(task, site, outcome), None))
            continue
        try:
            answers.append(finish(work, outcome))
        except Exception as error:
            answers.append((failure(task, site, error), None))
    each = (time.monotonic() - started) / max(len(asked), 1)
    return [(report.model_copy(update={"seconds": each}), update) for report, update in answers]


def admitted(task: Task, blob: bytes, site: Site) -> Work | Answered:
    """The work, or an answer where there is none to do."""
    try:
        work = admit(task, blob, site)
        if isinstance(work, Answer):
            return Report.model_validate_json(work.report), work.blob
    except Exception as error:
        return failure(task, site, error), None
    return work
