"""The coordinator's own test set, and with it the classes that a run has here."""

from __future__ import annotations

from collections.abc import Iterable

from fedlora.config import Recipe
from fedlora.data.classes import require_classes
from fedlora.data.rows import Columns, Read, read_whole
from fedlora.settings import SettingsError
from server.settings import ServerSettings


def held_out(settings: ServerSettings) -> Read | None:
    """The whole file, in its order; None where there is none. SettingsError where a row of it cannot be read."""
    own = settings.held_out
    return None if own is None else read_whole(str(own.file), Columns(own.text, own.label))


def classes_of(settings: ServerSettings, recipe: Recipe, seen: Iterable[str]) -> tuple[str, ...]:
    """The recipe's classes, the coordinator's, or those `seen` in its test set.

    SettingsError where there are none, or hundreds that nobody has declared.
    """
    declared = recipe.data.labels or settings.labels
    labels = declared or tuple(sorted(set(seen)))
    if len(labels) < 2:
        raise SettingsError(
            "set data.labels in the recipe, or labels or held_out in server.yaml: the head needs its classes."
        )
    if not declared and settings.held_out is not None:
        require_classes(labels, settings.held_out.label, str(settings.held_out.file))
    return labels


def known_classes(settings: ServerSettings, recipe: Recipe) -> tuple[str, ...]:
    """The same; the test set is read only where nothing is declared."""
    read = None if recipe.data.labels or settings.labels else held_out(settings)
    return classes_of(settings, recipe, (row.label for row in read.rows) if read else ())
