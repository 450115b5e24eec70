"""A line for every row of a file: its number, what stood in it where that was asked for, and the answer or why none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedlora.data.row import Row
from fedlora.results.base import Answer, Results
from fedlora.results.given import Given
from fedlora.results.opened import Opened
from fedlora.results.writing import ERROR, Line


def predicted(
    opened: Opened, given: Sequence[Given], results: Results, *, most_tokens: int, with_input: bool
) -> Iterator[Line]:
    """In the order of the file, each as soon as it is known."""
    answers = results.answers(opened, [one.row for one in given if one.row is not None], most_tokens=most_tokens)
    for one in given:
        answer: Answer = {ERROR: one.trouble} if one.row is None else next(answers)
        yield {**named(one, results, with_input=with_input), **answer}


def named(one: Given, results: Results, *, with_input: bool) -> Line:
    """What a line begins with."""
    line: dict[str, object] = {"row": one.number}
    if one.file is not None:
        line["file"] = one.file
    if with_input and one.row is not None:
        line |= texts_of(one.row, results)
    return line


def texts_of(row: Row, results: Results) -> dict[str, str]:
    """The cells that were asked, without images."""
    return {column: row[column] for column in results.asks(row.form) if column not in row.form.images}
