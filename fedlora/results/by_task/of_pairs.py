"""Which of two answers the model prefers to what its base did: DPO's reward margin, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.by_task.margins import margins
from fedlora.results.by_task.unanswered import measured_each
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.tasks.preference import TIE


class OfPairs:
    """Of the task `preference`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return form.columns

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """prefers: `chosen`, `rejected`, or `neither` within rounding; margin in nats, the task's own β in it."""
        for chunk in chunks(rows, AT_ONCE):
            yield from map(preferred, margins(opened, chunk))

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


def preferred(margin: float | None) -> Answer:
    if margin is None:
        return {"error": "its answers are cut away, alike, or cannot be read"}
    return {"prefers": "neither" if abs(margin) <= TIE else "chosen" if margin > 0 else "rejected", "margin": margin}
