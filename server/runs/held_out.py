"""The coordinator's own test set, and with it the classes that a run has here."""

from __future__ import annotations

from collections.abc import Sequence

from fedlora.config import Recipe
from fedlora.data.chosen_columns import columns_for
from fedlora.data.classes import require_classes
from fedlora.data.row import labels_in
from fedlora.data.rows import Read, read_whole
from fedlora.settings import SettingsError
from fedlora.tasks.registry import has_classes, has_tags
from fedlora.tasks.tags.scheme import require_tags
from server.settings import ServerSettings


def held_out(settings: ServerSettings) -> Read | None:
    """The whole file, in its order; None where there is none. SettingsError where a row of it cannot be read."""
    own = settings.held_out
    return None if own is None else read_whole(str(own.file), columns_for(own, own.task))


def classes_of(settings: ServerSettings, recipe: Recipe, seen: Sequence[str]) -> tuple[str, ...]:
    """The recipe's classes, the coordinator's, or those `seen` in its test set; none for a task without classes.

    SettingsError where a task has none, hundreds that nobody has declared, or others than it can have, and where the
    test set is for another task.
    """
    own, task = settings.held_out, recipe.model.task
    if own is not None and own.task != task:
        raise SettingsError(
            f"held_out in server.yaml is for {own.task}, and the recipe's model.task is {task}: set held_out.task and "
            "its file, or take held_out out."
        )
    if not has_classes(task):
        return ()
    declared = recipe.data.labels or settings.labels
    labels = declared or tuple(sorted(set(seen)))
    if len(labels) < 2:
        raise SettingsError(
            "set data.labels in the recipe, or labels or held_out in server.yaml: the model's head needs the list of "
            "classes."
        )
    if has_tags(task):
        require_tags(labels)
    if not declared and own is not None:
        require_classes(labels, columns_for(own, own.task), str(own.file))
    return labels


def known_classes(settings: ServerSettings, recipe: Recipe) -> tuple[str, ...]:
    """The classes of `held_out_classes`; the test set is read only if nothing is declared."""
    read = None if recipe.data.labels or settings.labels else held_out(settings)
    return classes_of(settings, recipe, labels_in(read.rows) if read else ())
