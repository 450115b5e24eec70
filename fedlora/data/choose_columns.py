"""Which column is likely to be the text, the class, the organisation: a first guess, always said with its why.

text     the longest and most varied of those that look like text
label    few values; one called like classes first, then that with the fewest values
client   only one that is called like an organisation, each of whose values has rows enough: a guess that is wrong
         here changes what a client is
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedlora.data.classes import MOST_CLASSES
from fedlora.data.columns import Column
from fedlora.settings import SettingsError, nearest

LABELS = frozenset({
    "label", "labels", "class", "classes", "category", "categories", "target", "y", "sentiment", "topic", "intent",
    "outcome", "rating", "stars", "emotion", "mood", "diagnosis", "verdict", "grade", "type", "kind", "tag", "priority",
})  # fmt: skip
CLIENTS = frozenset({
    "client", "clients", "site", "hospital", "clinic", "organisation", "organization", "org", "company", "bank",
    "branch", "department", "school", "region", "country", "state", "city", "store", "shop", "airline", "partner",
    "institution", "tenant", "user", "author", "centre", "center", "office", "district",
})  # fmt: skip
ENDINGS = frozenset({"id", "name", "code", "no", "nr", "number"})
ROWS_A_CLIENT = 20
"""A client with fewer has next to nothing to train and to test on."""


@dataclass(frozen=True)
class Pick:
    """A column and why it was taken."""

    column: Column
    why: str


@dataclass(frozen=True)
class Chosen:
    """What a recipe is to call its columns."""

    text: Pick
    label: Pick
    client: Pick | None
    no_client: str = ""
    """Why there is none."""


def choose(
    columns: Sequence[Column],
    source: str,
    *,
    text: str | None = None,
    label: str | None = None,
    client: str | None = None,
) -> Chosen:
    """The named columns, and a guess for those not named. SettingsError with every column where none fits."""
    if columns and not any(column.cells or column.trouble for column in columns):
        names = ", ".join(column.name for column in columns)
        raise SettingsError(f"{source} has columns ({names}) and nothing in them: save it again with its rows.")
    given = {"--text": text, "--label": label, "--client": client}
    named = {option: _named(columns, option, name, source) for option, name in given.items() if name is not None}
    taken = [column.name for column in named.values()]
    if len(set(taken)) < len(taken):
        raise SettingsError(f"{' and '.join(named)} name one column twice; a column is one thing.")
    texts = named.get("--text")
    found_text = Pick(texts, "you named it") if texts else _text(_free(columns, taken), columns, source)
    taken = [*taken, found_text.column.name]
    labels = named.get("--label")
    found_label = Pick(labels, "you named it") if labels else _label(_free(columns, taken), columns, source)
    if "--client" in named:
        return Chosen(found_text, found_label, Pick(named["--client"], "you named it"))
    found, why_not = _client(_free(columns, [*taken, found_label.column.name]))
    return Chosen(found_text, found_label, found, why_not)


def head_of(name: str) -> str:
    """The word of a column's name that says what it is.

    >>> head_of("airline_sentiment"), head_of("Hospital ID"), head_of("clientName"), head_of("id")
    ('sentiment', 'hospital', 'client', '')
    """
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold())
    return next((word for word in reversed(words) if word not in ENDINGS), "")


def _named(columns: Sequence[Column], option: str, name: str, source: str) -> Column:
    found = {column.name: column for column in columns}
    if name not in found:
        near = nearest(name, found)
        meant = f"did you mean {near!r}? It has " if near else "it has "
        raise SettingsError(f"{option} {name!r}: {source} has no such column; {meant}{', '.join(found) or 'none'}.")
    column = found[name]
    if not column.readable:
        raise SettingsError(f"{option} {name!r} cannot be used: {column.trouble or 'it is empty'}.")
    if option == "--label" and column.distinct > min(MOST_CLASSES, column.cells / 2):
        raise SettingsError(
            f"--label {name!r} has {column.distinct} different values in {column.cells} rows; a class has many rows. "
            f"Name another column.\n{listed(columns)}"
        )
    return column


def _free(columns: Sequence[Column], taken: Sequence[str]) -> list[Column]:
    return [column for column in columns if column.name not in taken]


def _text(free: Sequence[Column], columns: Sequence[Column], source: str) -> Pick:
    fitting = [column for column in free if column.is_text]
    if not fitting:
        raise SettingsError(
            f"{source}: no column looks like the text (words, in most rows different ones). Name it: --text COLUMN.\n"
            f"{listed(columns)}"
        )
    best = max(fitting, key=lambda column: column.chars * column.distinct / column.cells)
    return Pick(best, f"the longest and most varied, {best.words:.0f} words on average")


def _label(free: Sequence[Column], columns: Sequence[Column], source: str) -> Pick:
    fitting = [column for column in free if column.is_classes and head_of(column.name) not in CLIENTS]
    if not fitting:
        raise SettingsError(
            f"{source}: no column looks like the class (a few values, each in several rows). Name it: --label COLUMN.\n"
            f"{listed(columns)}"
        )
    best = min(fitting, key=lambda column: (head_of(column.name) not in LABELS, column.distinct))
    others = [repr(column.name) for column in fitting if column is not best]
    why = "by its name" if head_of(best.name) in LABELS else "no other has so few values"
    instead = f" (if the class is {' or '.join(others)}, say so with --label)" if others else ""
    return Pick(best, f"{why}, {best.distinct} classes{instead}")


def _client(free: Sequence[Column]) -> tuple[Pick | None, str]:
    fitting = [column for column in free if column.is_classes]
    called = [column for column in fitting if head_of(column.name) in CLIENTS]
    enough = [column for column in called if column.fewest >= ROWS_A_CLIENT]
    if enough:
        best = min(enough, key=lambda column: column.distinct)
        return Pick(best, f"by its name, {best.distinct} values with {best.fewest} rows or more each"), ""
    if called:
        small = called[0]
        return None, f"{small.name!r} has a value with {small.fewest} rows, too few; --client takes it all the same"
    names = " or ".join(repr(column.name) for column in fitting)
    instead = f" (if {names} says whose a row is, name it with --client)" if names else ""
    return None, f"no column is named like an organisation{instead}"


def listed(columns: Sequence[Column]) -> str:
    """Every column and what it looks like, a line each."""
    lines = [
        f"  {column.name}: {column.looks_like}"
        + (f", {column.distinct} different in {column.cells} rows" if column.cells else "")
        + (f" ({column.trouble})" if column.trouble else "")
        for column in columns
    ]
    return "\n".join(lines) or "  there are no columns"
