"""The tasks there are, by their names in a recipe. Another one is a file of this folder and a line here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedlora.data.form import (
    CHOICES,
    CHOICES_MESSAGES,
    IMAGE_AND_LABEL,
    MESSAGES,
    PREFERENCE,
    PREFERENCE_MESSAGES,
    PROMPT_AND_COMPLETION,
    TEXT,
    TEXT_AND_LABEL,
    TOKENS_AND_TAGS,
    UNPAIRED,
    UNPAIRED_MESSAGES,
    Form,
)
from fedlora.nearest import nearest

if TYPE_CHECKING:
    from fedlora.config import ModelSettings
    from fedlora.tasks.base import TaskKind


@dataclass(frozen=True)
class Known:
    """A task that there is."""

    kind: str
    """File and class. Imported when asked for: a recipe is checked without loading transformers."""
    forms: tuple[Form, ...]
    """The kinds of rows that it reads; the first where `data.format` chooses none."""
    takes_settings: bool = False
    """Whether its loss depends on `model.preference`."""


TASKS = {
    "causal-lm": Known("causal_lm.CausalLM", (PROMPT_AND_COMPLETION, MESSAGES, TEXT)),
    "image-classification": Known("image_classification.ImageClassification", (IMAGE_AND_LABEL,)),
    "multiple-choice": Known("answering.multiple_choice.MultipleChoice", (CHOICES, CHOICES_MESSAGES)),
    "preference": Known("preference.Preference", (PREFERENCE, PREFERENCE_MESSAGES), takes_settings=True),
    "sequence-classification": Known("sequence_classification.SequenceClassification", (TEXT_AND_LABEL,)),
    "unpaired-preference": Known(
        "answering.unpaired_preference.UnpairedPreference", (UNPAIRED, UNPAIRED_MESSAGES), takes_settings=True
    ),
    "token-classification": Known("token_classification.TokenClassification", (TOKENS_AND_TAGS,)),
}


@cache
def task_named(name: str) -> TaskKind:
    """The task; KeyError for a name that is not in `TASKS`."""
    task: TaskKind = class_of(name)()
    return task


@cache
def task_of(model: ModelSettings) -> TaskKind:
    """The task with the settings that the recipe has of it, which its loss needs: the one to compute with."""
    if not TASKS[model.task].takes_settings:
        return task_named(model.task)
    task: TaskKind = class_of(model.task)(model.preference)
    return task


def class_of(name: str) -> Any:
    """What makes the task."""
    module, _, kind = TASKS[name].kind.rpartition(".")
    return getattr(import_module(f"fedlora.tasks.{module}"), kind)


def has_classes(name: str) -> bool:
    """Whether the task sorts examples into classes, which a run has to know before it begins."""
    return all(form.label is not None for form in TASKS[name].forms)


def has_tags(name: str) -> bool:
    """Whether its classes are the tags of words (`fedlora.tasks.tags.scheme`)."""
    return all(form.of_words for form in TASKS[name].forms)


def known_task(name: str) -> str:
    """The name; ValueError with the nearest where there is no such task."""
    if name not in TASKS:
        near = nearest(name, TASKS)
        raise ValueError(
            f"{name!r} is no task; " + (f"did you mean {near!r}? " if near else "") + f"There is {', '.join(TASKS)}."
        )
    return name
