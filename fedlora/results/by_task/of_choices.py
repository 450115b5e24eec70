"""The likeliest of a question's choices, and the log-probability of each (`fedlora.tasks.answering.choices`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlora.data.examples import has_loss
from fedlora.data.form import Form
from fedlora.data.row import Row
from fedlora.models.base import autocast
from fedlora.results.base import Answer, Judged, Seen
from fedlora.results.by_task.unanswered import measured_each
from fedlora.results.opened import AT_ONCE, Opened
from fedlora.tasks.answering.choices import question_of, score_choices


class OfChoices:
    """Of the task `multiple-choice`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        return tuple(column for column in form.columns if column != "answer")

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """answer, the likeliest choice's number from 0; choice, its text; answer_by_length, the likeliest by nats a
        character; nats, the log-probability of every choice."""
        for row in rows:
            yield answer(opened, unanswered(row))

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


def unanswered(row: Row) -> Row:
    """The same with its first choice as the right one: which is right is not asked."""
    cells = ("0" if column == "answer" else cell for column, cell in zip(row.form.columns, row.cells, strict=True))
    return Row(row.form, tuple(cells), row.client)


def answer(opened: Opened, row: Row) -> Answer:
    tokenizer, longest = opened.base.processor, opened.on.max_tokens
    try:
        choices = question_of(row, tokenizer).choices
    except (ValueError, RecursionError) as error:
        return {"error": "choices are a list of JSON" if type(error) is not ValueError else str(error)}
    if not has_loss(opened.examples([row], each=True).items[0]):
        return {"error": f"a choice does not fit into model.max_tokens={longest}, or cannot be read"}
    with autocast(opened.on):
        (scored,) = score_choices(opened.model, tokenizer, [row], longest=longest, at_once=AT_ONCE)
    assert scored is not None  # it has a loss
    return {
        "answer": scored.best,
        "choice": choices[scored.best],
        "answer_by_length": scored.best_by_length,
        "nats": list(scored.scores),
    }
