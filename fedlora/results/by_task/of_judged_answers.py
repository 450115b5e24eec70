"""How much more the model likes an answer than its base did: KTO's reward of every answer by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.results.base import Answer, Judged, Seen, chunks
from fedlora.results.by_task.margins import margins
from fedlora.results.by_task.unanswered import measured_each
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.tasks.preference import TIE


class OfJudgedAnswers:
    """Of the task `unpaired-preference`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return tuple(column for column in form.columns if column != "label")

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """label, whether it is held to be good, None within rounding; reward, how far it is on that side of z0: β times
        the nats that it gained on the base, the task's own β in it."""
        for chunk in chunks(rows, AT_ONCE):
            yield from map(liked, margins(opened, [held_good(row) for row in chunk]))

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


def held_good(row: Row) -> Row:
    """The same with a label: a good answer's margin is its reward."""
    cells = ("true" if column == "label" else cell for column, cell in zip(row.form.columns, row.cells, strict=True))
    return Row(row.form, tuple(cells), row.client)


def liked(reward: float | None) -> Answer:
    if reward is None:
        return {"error": "its answer is cut away, or cannot be read"}
    return {"label": None if abs(reward) <= TIE else reward > 0, "reward": reward}
