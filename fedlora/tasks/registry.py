"""The tasks there are, by their names in a recipe. Another one is a file of this folder and a line here."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from fedlora.settings import nearest

if TYPE_CHECKING:
    from fedlora.tasks.base import TaskKind

TASKS = {
    "causal-lm": "causal_lm.CausalLM",
    "image-classification": "image_classification.ImageClassification",
    "sequence-classification": "sequence_classification.SequenceClassification",
}
"""File and class. Imported when asked for: a recipe is checked without loading transformers."""


@cache
def task_named(name: str) -> TaskKind:
    """The task; KeyError for a name that is not in `TASKS`."""
    module, _, kind = TASKS[name].partition(".")
    task: TaskKind = getattr(import_module(f"fedlora.tasks.{module}"), kind)()
    return task


def has_classes(name: str) -> bool:
    """Whether the task sorts examples into classes, which a run has to know before it begins."""
    return all(form.label is not None for form in task_named(name).forms)


def known_task(name: str) -> str:
    """The name; ValueError with the nearest where there is no such task."""
    if name not in TASKS:
        near = nearest(name, TASKS)
        raise ValueError(
            f"{name!r} is no task; " + (f"did you mean {near!r}? " if near else "") + f"There is {', '.join(TASKS)}."
        )
    return name
