"""BIO: what each class of a run says of a word. Written by Ramshaw and Marcus (WVLC 1995), kept by CoNLL since 2002.

    O       outside of every entity
    B-X     the first word of an entity of type X
    I-X     a further word of it

A code is a class as a number that says so: 0 outside, 2 k + 1 begins and 2 k + 2 continues an entity of type k; types
are numbered in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from fedlora.settings import SettingsError

OUTSIDE = 0
TAG = re.compile(r"O|[BI]-.+", re.DOTALL)


def types_in(labels: Sequence[str]) -> tuple[str, ...]:
    """The types of entities that these classes tell of; SettingsError for a class that is no tag.

    >>> types_in(("O", "I-PLACE", "B-PLACE", "B-TIME"))
    ('PLACE', 'TIME')
    """
    require_tags(labels)
    return tuple(sorted({label[2:] for label in labels if label != "O"}))


def codes_of(labels: Sequence[str]) -> list[int]:
    """The code of every class; SettingsError for a class that is no tag.

    >>> codes_of(("O", "I-PLACE", "B-PLACE", "B-TIME"))
    [0, 2, 1, 3]
    """
    number = {name: index for index, name in enumerate(types_in(labels))}
    return [OUTSIDE if label == "O" else 2 * number[label[2:]] + "BI".index(label[0]) + 1 for label in labels]


def require_tags(labels: Sequence[str]) -> None:
    """SettingsError for a class that is no tag, with what it may have been meant for."""
    if wrong := untagged(labels):
        raise SettingsError(wrong)


def untagged(labels: Iterable[str]) -> str:
    """What is wrong with the first of these classes that is no tag, and the way out; empty where all are tags."""
    wrong = next((label for label in labels if not TAG.fullmatch(label)), None)
    return "" if wrong is None else f"the class {wrong!r} is no tag, which are O, B-TYPE and I-TYPE. {_way_out(wrong)}"


def _way_out(label: str) -> str:
    if label.isdigit():
        return "Say what the tags' numbers mean: data.tag_names (datasets: features[...].feature.names)."
    if re.fullmatch(r"[ELSU]-.+", label, re.DOTALL):
        return "Of BIOES and BILOU: write S- and U- as B-, E- and L- as I-."
    return f"Write the first word of such an entity as B-{label}, its further words as I-{label}."
