"""Which file answers for a task's results. Another task is a file of `by_task` and a line here.

A task without a line is judged all the same, by its own `measure`; it answers nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlora.results.base import Results

RESULTS = {
    "causal-lm": "of_answers.OfAnswers",
    "image-classification": "of_classes.OfClasses",
    "preference": "of_pairs.OfPairs",
    "sequence-classification": "of_classes.OfClasses",
}


def results_of(task: str) -> Results:
    """By the task's name in a recipe."""
    module, _, kind = RESULTS.get(task, "unanswered.Unanswered").partition(".")
    found: Results = getattr(import_module(f"fedlora.results.by_task.{module}"), kind)()
    return found
