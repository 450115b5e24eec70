"""The answer that a language model writes, greedily and of a bounded length; judged by the task's own metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlora.data.form import PROMPT_AND_COMPLETION, Form
from fedlora.data.row import Row
from fedlora.results.base import Answer, Judged, Seen
from fedlora.results.by_task.unanswered import measured_each
from fedlora.results.opened import Opened
from fedlora.results.writes.greedy import greedy, written
from fedlora.results.writes.prompts import prompt_of, room_for
from fedlora.tasks.answering.ending import ends_of
from fedlora.tasks.inputs.learned_text import require_template


class OfAnswers:
    """Of the task `causal-lm`."""

    def asks(self, form: Form) -> tuple[str, ...]:
        """Of prompts with completions, the prompt alone."""
        return ("prompt",) if form == PROMPT_AND_COMPLETION else form.columns

    def answers(self, opened: Opened, rows: Sequence[Row], *, most_tokens: int) -> Iterator[Answer]:
        """answer, its number of tokens, and whether it ended by itself."""
        for form in {row.form for row in rows}:
            require_template(form, opened.base.processor)
        ends = ends_of(opened.model, opened.base.processor)
        for row in rows:
            yield answer(opened, row, ends, most_tokens=most_tokens)

    def judge(self, opened: Opened, rows: Sequence[Row], *, seen: Seen) -> Judged:
        return Judged(measured_each(opened, rows, seen=seen))


def answer(opened: Opened, row: Row, ends: frozenset[int], *, most_tokens: int) -> Answer:
    try:
        prompt = prompt_of(row, opened.base.processor)
        most = room_for(opened.model, prompt, most=most_tokens)
    except ValueError as error:
        return {"error": str(error)}
    tokens = list(greedy(opened.model, prompt, on=opened.on, ends=ends, most=most))
    ended = tokens[-1] in ends
    text = written(tokens[:-1] if ended else tokens, opened.base.processor)
    return {"answer": text, "tokens": len(tokens), "ended": ended}
