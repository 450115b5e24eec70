"""Which file answers for a task's results. Another task is a file of `by_task` and a line here.

A task without a line is judged all the same, by its own `measure`; it answers nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from fedlora.plugins.names import Kind, is_plug_in
from fedlora.tasks.registry import TASKS, task_named

if TYPE_CHECKING:
    from fedlora.results.base import Results

RESULTS = {
    "causal-lm": "of_answers.OfAnswers",
    "image-classification": "of_classes.OfClasses",
    "multiple-choice": "of_choices.OfChoices",
    "preference": "of_pairs.OfPairs",
    "sequence-classification": "of_classes.OfClasses",
    "token-classification": "of_tags.OfTags",
    "unpaired-preference": "of_judged_answers.OfJudgedAnswers",
}


def results_of(task: str) -> Results:
    """By the task's name in a recipe."""
    own = RESULTS.get(task) or ("of_classes.OfClasses" if _sorts(task) else "unanswered.Unanswered")
    module, _, kind = own.partition(".")
    found: Results = getattr(import_module(f"fedlora.results.by_task.{module}"), kind)()
    return found


def _sorts(task: str) -> bool:
    """Whether a plug-in's task answers as fedlora's own over classes do: there is no line here for it."""
    from fedlora.tasks.classes import OverClasses

    return is_plug_in(Kind.TASK, task, TASKS) and isinstance(task_named(task), OverClasses)
