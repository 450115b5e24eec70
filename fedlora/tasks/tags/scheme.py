"""BIO: what each class of a run says of a word. Written by Ramshaw and Marcus (WVLC 1995), kept by CoNLL since 2002.

    O       outside of every entity
    B-X     the first word of an entity of type X
    I-X     a further word of it

A code is a class as a number that says so: 0 outside, 2 k + 1 begins and 2 k + 2 continues an entity of type k; types
are numbered in the order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

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


def codes_of(labels: Sequence[str]) -> Tensor:
    """The code of every class (c,); SettingsError for a class that is no tag.

    >>> codes_of(("O", "I-PLACE", "B-PLACE", "B-TIME")).tolist()
    [0, 2, 1, 3]
    """
    number = {name: index for index, name in enumerate(types_in(labels))}
    codes = [OUTSIDE if label == "O" else 2 * number[label[2:]] + "BI".index(label[0]) + 1 for label in labels]
    return torch.tensor(codes, dtype=torch.long)


def require_tags(labels: Sequence[str]) -> None:
    """SettingsError for a class that is no tag, with what it may have been meant for."""
    wrong = next((label for label in labels if not TAG.fullmatch(label)), None)
    if wrong is not None:
        raise SettingsError(f"the class {wrong!r} is no tag: tags are O, B-TYPE and I-TYPE. {_way_out(wrong)}")


def _way_out(label: str) -> str:
    if label.isdigit():
        return "Write the tags' names in place of their numbers (datasets: features[...].feature.int2str)."
    if re.fullmatch(r"[ELSU]-.+", label, re.DOTALL):
        return "Of BIOES and BILOU: write S- and U- as B-, E- and L- as I-."
    return f"Write the first word of such an entity as B-{label}, its further words as I-{label}."
