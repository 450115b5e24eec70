"""Classes as people write them: too many to be classes, and names that differ only where nobody looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

from fedlora.data.form import Columns, setting_of
from fedlora.settings import SettingsError

MOST_CLASSES = 200
"""A column with more different values is not taken for one of classes, unless somebody lists them."""


def require_classes(labels: Sequence[str], columns: Columns, source: str) -> None:
    """SettingsError for a column that holds something else than classes: times, identifiers, free text."""
    if len(labels) > MOST_CLASSES:
        setting = setting_of(columns.form.label or "label")
        raise SettingsError(
            f"{setting}={columns.label!r}: {source} has {len(labels)} different values in it, such as "
            f"{', '.join(repr(label[:40]) for label in labels[:3])}. Are these classes? If they are, list them in "
            f"data.labels; more than {MOST_CLASSES} are taken for a mistake otherwise."
        )


def alike(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that are the same but for case and spaces.

    >>> alike(["Good", "bad", "good ", "not  good", "not good"])
    [('Good', 'good '), ('not  good', 'not good')]
    """
    groups: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        groups.setdefault(" ".join(label.split()).casefold(), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def once_each(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels; ValueError where one of them stands twice."""
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{twice[0]!r} stands there twice; the head has one output for every class.")
    return labels


Classes = Annotated[tuple[str, ...], AfterValidator(once_each)]
"""Names in the order of the head's outputs, each once."""
