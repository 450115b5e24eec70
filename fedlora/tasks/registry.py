"""The tasks there are, by their names in a recipe. Another one is a file of this folder and a line here, or a plug-in.

A plug-in's object is a task (`fedlora.tasks.base.TaskKind`), or a class of one, that also says its `forms`.
"""

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
    TEXT_AND_SPANS,
    TOKENS_AND_TAGS,
    UNPAIRED,
    UNPAIRED_MESSAGES,
    Form,
)
from fedlora.plugins.names import Kind, is_plug_in, known

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
    own_loss: str | None = None
    """Of one that takes settings: its loss, whatever `model.preference.loss` says."""
    writes: bool = False
    """Whether its model is asked for answers of its own (`rounds.generate`)."""


TASKS = {
    "causal-lm": Known("causal_lm.CausalLM", (PROMPT_AND_COMPLETION, MESSAGES, TEXT), writes=True),
    "image-classification": Known("image_classification.ImageClassification", (IMAGE_AND_LABEL,)),
    "multiple-choice": Known("answering.multiple_choice.MultipleChoice", (CHOICES, CHOICES_MESSAGES)),
    "preference": Known("preference.Preference", (PREFERENCE, PREFERENCE_MESSAGES), takes_settings=True),
    "sequence-classification": Known("sequence_classification.SequenceClassification", (TEXT_AND_LABEL,)),
    "unpaired-preference": Known(
        "answering.unpaired_preference.UnpairedPreference",
        (UNPAIRED, UNPAIRED_MESSAGES),
        takes_settings=True,
        own_loss="kto",
    ),
    "token-classification": Known("token_classification.TokenClassification", (TOKENS_AND_TAGS, TEXT_AND_SPANS)),
}


@cache
def task_named(name: str) -> TaskKind:
    """The task; KeyError for a name that nobody knows, SettingsError for a plug-in that cannot be loaded."""
    if is_plug_in(Kind.TASK, name, TASKS):
        return _plug_in(name)
    task: TaskKind = class_of(name)()
    return task


@cache
def task_of(model: ModelSettings) -> TaskKind:
    """The task with the settings that the recipe has of it, which its loss needs: the one to compute with."""
    if not takes_settings(model.task):
        return task_named(model.task)
    task: TaskKind = class_of(model.task)(model.preference)
    return task


def takes_settings(name: str) -> bool:
    """Whether the task's loss depends on `model.preference`."""
    return name in TASKS and TASKS[name].takes_settings


def preference_loss(model: ModelSettings) -> str | None:
    """The loss by which the task compares answers; None where it is another task."""
    return TASKS[model.task].own_loss or model.preference.loss if takes_settings(model.task) else None


def writes(name: str) -> bool:
    """Whether its model is asked for answers of its own."""
    return name in TASKS and TASKS[name].writes


def class_of(name: str) -> Any:
    """What makes the task."""
    module, _, kind = TASKS[name].kind.rpartition(".")
    return getattr(import_module(f"fedlora.tasks.{module}"), kind)


def forms_of(name: str) -> tuple[Form, ...]:
    """The kinds of rows that the task reads; the first where `data.format` chooses none."""
    if is_plug_in(Kind.TASK, name, TASKS):
        forms: tuple[Form, ...] = getattr(task_named(name), FORMS)
        return forms
    return TASKS[name].forms


def has_classes(name: str) -> bool:
    """Whether the task sorts examples into classes, which a run has to know before it begins."""
    return all(form.label is not None for form in forms_of(name))


def has_tags(name: str) -> bool:
    """Whether its classes are the tags of words (`fedlora.tasks.tags.scheme`)."""
    return all(form.of_words for form in forms_of(name))


def known_task(name: str) -> str:
    """The name; ValueError with the nearest where there is no such task. Nothing is imported: it may be a message's."""
    return known(Kind.TASK, name, TASKS)


FORMS = "forms"


def _plug_in(name: str) -> TaskKind:
    from fedlora.plugins.loading import load_plug_in, wrong_kind

    found = load_plug_in(Kind.TASK, name)
    task = found() if isinstance(found, type) else found
    lacking = [attribute for attribute in (FORMS, *NEEDED) if not hasattr(task, attribute)]
    forms = getattr(task, FORMS, None)
    if lacking or not isinstance(forms, tuple) or not all(isinstance(form, Form) for form in forms) or not forms:
        wanted = f"what fedlora.tasks.base.TaskKind lists, with {FORMS}: tuple[Form, ...]; it lacks "
        raise wrong_kind(Kind.TASK, name, found, wanted + (", ".join(lacking) or "forms that are Forms"))
    made: TaskKind = task
    return made


NEEDED = (
    "dense", "zeros", "metrics", "compare_by", "usage", "load", "outline", "processor", "padding", "prepare",
    "require_readable", "encode", "collate", "length", "positions", "losses", "measure", "judge", "sample", "pads_with",
    "usable", "ignored",
)  # fmt: skip
"""Of `fedlora.tasks.base.TaskKind`, for a plug-in: a test holds the two lists against each other."""
