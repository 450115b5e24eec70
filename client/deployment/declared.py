"""What a site declares of its data, once, instead of letting each run find it out: how many there are, and the classes.

The public size sets sampling rate and weight. Where none is declared, it is the actual one rounded down to a coarse
ladder, which follows the data: at a step of the ladder one example more changes what everybody sees. A declared size is
a number that the site chose, and stays what it is when an example comes or goes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from client.own_rows import rows_in
from client.settings import SiteData
from fedlora.data.classes import MOST_CLASSES
from fedlora.data.row import labels_in
from fedlora.privacy.rows_key import rows_key
from fedlora.settings import SettingsError

LATER = """\
# Once the data are there, declare how many they are (fedlora client doctor says how): datasets, public_examples.
"""


@dataclass(frozen=True)
class Declared:
    """What stands in client.yaml and policy.yaml of a new site; nothing where the data cannot be read yet."""

    labels: tuple[str, ...] = ()
    examples: int = 0

    def data(self) -> dict[str, list[str]]:
        """For client.yaml, under data."""
        return {"labels": list(self.labels)} if 2 <= len(self.labels) <= MOST_CLASSES else {}

    def policy(self) -> str:
        """For policy.yaml."""
        return size_lines("default", self.examples) if self.examples else LATER


def declared(state: Path, train: Path | None) -> Declared:
    """From a training file with the columns text and label."""
    if train is None or not train.exists():
        return Declared()
    try:
        rows = rows_in(SiteData(train=train), rows_key(state))
    except SettingsError:
        return Declared()
    return Declared(labels_in((*rows.train, *rows.test)), len(rows.train))


def malformed(state: Path, train: Path | None) -> tuple[str, ...]:
    """The first rows of a training file that are left out as they are written, with their lines."""
    try:
        return () if train is None else rows_in(SiteData(train=train), rows_key(state)).malformed
    except SettingsError as error:
        return (str(error),)


def size_lines(dataset: str, examples: int) -> str:
    """The part of a policy that declares a size."""
    return (
        "# The number of training examples as it may be known: sampling rate and weight are made of it. It was\n"
        "# rounded down to two digits when this was written and follows nothing since: change it as you like, best\n"
        "# downwards (less costs accuracy; with more than there are, the noise outweighs them).\n"
        f"datasets:\n  {dataset}:\n    public_examples: {two_digits(examples)}\n"
    )


def two_digits(examples: int) -> int:
    """Rounded down to two leading digits.

    >>> [two_digits(n) for n in (7, 42, 515, 2219, 14_400)]
    [7, 42, 510, 2200, 14000]
    """
    scale: int = 10 ** max(0, int(math.log10(examples)) - 1)
    return examples // scale * scale
