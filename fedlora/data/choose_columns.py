"""Which column is likely to be the text, the class, the organisation: a first guess, always said with its why.

text     the longest and most varied of those that look like text
label    few values; of several such columns the one that is called `label` or the like and nothing else; then that
         which the text's words tell best (`told_by_words`), or one called like classes if they tell it two fifths as
         well; where they tell none, one called so, then that with the fewest values
client   only one that is called like an organisation, each of whose values has rows enough: a guess that is wrong
         here changes what a client is
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedlora.data.classes import MOST_CLASSES
from fedlora.data.columns import Column
from fedlora.data.form import TOKENS_AND_TAGS
from fedlora.data.rows import files_of
from fedlora.data.told_by_words import Told, told_in
from fedlora.settings import SettingsError, nearest

LABELS = frozenset({
    "label", "labels", "class", "classes", "category", "categories", "target", "y", "sentiment", "topic", "intent",
    "outcome", "rating", "stars", "emotion", "mood", "diagnosis", "verdict", "grade", "type", "kind", "tag", "priority",
})  # fmt: skip
JUST_LABELS = frozenset({"label", "labels", "class", "classes", "target", "y"})
"""As a whole name: nobody calls another thing so, which cannot be said of `priority` or `travel class`."""
CLIENTS = frozenset({
    "client", "clients", "site", "hospital", "clinic", "organisation", "organization", "org", "company", "bank",
    "branch", "department", "school", "region", "country", "state", "city", "store", "shop", "airline", "partner",
    "institution", "tenant", "user", "author", "centre", "center", "office", "district",
})  # fmt: skip
ENDINGS = frozenset({"id", "name", "code", "no", "nr", "number"})
ROWS_A_CLIENT = 20
"""A client with fewer has next to nothing to train and to test on."""
NAMED = 2.5
"""A column that is called like classes counts for so many others, where the text's words tell both."""
TAGGED = (
    "{source} has words with tags (columns tokens and tags); this looks for texts with a class. Write the recipe by "
    "hand: model: {{task: token-classification}}, and data: {{source: {source}}} with a column client, a file for each "
    "client in a folder, or partition: iid and clients: 4."
)
OTHERWISE = (
    (("messages",), "model: {id: smollm2, task: causal-lm}", "messages"),
    (("prompt", "chosen", "rejected"), "model: {id: smollm2, task: preference}", "preference"),
    (("prompt", "completion"), "model: {id: smollm2, task: causal-lm}", "prompt-completion"),
)
"""Columns that a recipe for a language model would have, with its model and its data.format; the first that fit."""
MOST_OTHERS = 5
"""Columns that are named as what else could be meant."""


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
    if text is None and {column.name for column in columns} >= set(TOKENS_AND_TAGS.columns):
        raise SettingsError(TAGGED.format(source=source))
    given = {"--text": text, "--label": label, "--client": client}
    named = {option: _named(columns, option, name, source) for option, name in given.items() if name is not None}
    taken = [column.name for column in named.values()]
    if len(set(taken)) < len(taken):
        raise SettingsError(f"{' and '.join(named)} name one column twice; a column is one thing.")
    texts = named.get("--text")
    found_text = Pick(texts, "you named it") if texts else _text(_free(columns, taken), columns, source)
    taken = [*taken, found_text.column.name]
    if "--label" in named:
        found_label = Pick(named["--label"], "you named it")
    else:
        found_label = _label(_free(columns, taken), columns, source, text=found_text.column.name)
    left = _free(columns, [*taken, found_label.column.name])
    if "--client" in named:
        found = named["--client"]
        require_shared(f"--client {found.name!r}", found, left, instead="leave --client out")
        return Chosen(found_text, found_label, Pick(found, "you named it"))
    guessed, why_not = _client(left)
    return Chosen(found_text, found_label, guessed, why_not)


def head_of(name: str) -> str:
    """The word of a column's name that says what it is.

    >>> head_of("airline_sentiment"), head_of("Hospital ID"), head_of("clientName"), head_of("id")
    ('sentiment', 'hospital', 'client', '')
    """
    words = re.findall(r"[^\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).casefold())
    return next((word for word in reversed(words) if word not in ENDINGS), "")


def otherwise(columns: Sequence[Column], source: str) -> str:
    """A line on the recipe that a language model would have, where the columns are called as one's; else nothing."""
    names = {column.name for column in columns}
    for known, model, form in OTHERWISE:
        if names >= set(known):
            return (
                f"\nThis looks for texts with a class. Is it for a language model ({', '.join(known)})? Write the "
                f"recipe by hand: {model}, and data: {{source: {source}, format: {form}}} with client_column: COLUMN, "
                "or partition: iid and clients: 4."
            )
    return ""


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
            f"{listed(columns)}{otherwise(columns, source)}"
        )
    best = max(fitting, key=lambda column: column.chars * column.distinct / column.cells)
    return Pick(best, f"the longest and most varied, {best.words:.0f} words on average")


def _label(free: Sequence[Column], columns: Sequence[Column], source: str, *, text: str) -> Pick:
    fitting = [column for column in free if column.is_classes and head_of(column.name) not in CLIENTS]
    if not fitting:
        raise SettingsError(
            f"{source}: no column looks like the class (a few values, each in several rows). Name it: --label COLUMN.\n"
            f"{listed(columns)}{otherwise(columns, source)}"
        )
    if len(fitting) == 1:
        why = "by its name" if called_like_classes(fitting[0]) else "no other has so few values"
        return Pick(fitting[0], f"{why}, {fitting[0].distinct} classes")
    paths = files_of(source)
    told = {column.name: told_in(paths, text, column.name) for column in fitting}
    best, *others = sorted(fitting, key=lambda column: _rank(column, told[column.name]))
    instead = f" (if the class is {either(others)}, say so with --label)"
    return Pick(best, f"{_why(best, told[best.name])}, {best.distinct} classes{instead}")


def _rank(column: Column, told: Told) -> tuple[bool, float, bool, int]:
    """The smallest is the likeliest class."""
    sure, named = column.name.strip().casefold() in JUST_LABELS, called_like_classes(column)
    return not sure, -told.gain * (NAMED if named else 1.0), not named, column.distinct


def _why(best: Column, told: Told) -> str:
    """Why it was taken, of several."""
    named = called_like_classes(best)
    if told.gain:
        right, guessing = f"{100 * told.right:.0f} %", f"{100 * told.guessing:.0f} %"
        return (
            f"{'by its name, and ' if named else ''}words of the text tell it {right} of the time, guessing {guessing}"
        )
    return f"{'by its name' if named else 'no other has so few values'}, though words of the text tell none of them"


def called_like_classes(column: Column) -> bool:
    return head_of(column.name) in LABELS


def either(columns: Sequence[Column]) -> str:
    """Their names with `or`, the likeliest first, as many as one reads."""
    names = [repr(column.name) for column in columns]
    return " or ".join(names[:MOST_OTHERS]) + (" or another" if len(names) > MOST_OTHERS else "")


def _client(free: Sequence[Column]) -> tuple[Pick | None, str]:
    fitting = [column for column in free if column.is_classes]
    called = [column for column in fitting if head_of(column.name) in CLIENTS]
    enough = [column for column in called if column.fewest >= ROWS_A_CLIENT]
    if enough:
        best, *others = sorted(enough, key=lambda column: column.distinct)
        instead = f" (if {either(others)} says whose a row is, name it with --client)" if others else ""
        return Pick(best, f"by its name, {best.distinct} values with {best.fewest} rows or more each{instead}"), ""
    if called:
        small = called[0]
        return None, f"{small.name!r} has a value with {small.fewest} rows, too few; --client takes it all the same"
    instead = f" (if {either(fitting)} says whose a row is, name it with --client)" if fitting else ""
    return None, f"no column is named like an organisation{instead}"


def require_shared(said: str, client: Column, others: Sequence[Column], *, instead: str) -> None:
    """SettingsError for a column of clients most of whose rows have a value of their own, as a row's number is.

    `said`: how it was named. `instead`: how to do without.
    """
    if client.distinct <= client.cells / 2:
        return
    fitting = sorted(
        (column for column in others if column.is_classes),
        key=lambda column: (head_of(column.name) not in CLIENTS, called_like_classes(column), -column.fewest),
    )
    names = ", ".join(f"{column.name!r} ({column.distinct} values)" for column in fitting[:MOST_OTHERS])
    raise SettingsError(
        f"{said} has {client.distinct} different values in {client.cells} rows, so "
        f"{'every' if client.distinct == client.cells else 'nearly every'} row would be a client of its own. "
        + (f"Columns that would do: {names}; or {instead}, " if names else f"No other column would do: {instead}, ")
        + "and rows are dealt by chance."
    )


def listed(columns: Sequence[Column]) -> str:
    """Every column and what it looks like, a line each."""
    lines = [
        f"  {column.name}: {column.looks_like}"
        + (f", {column.distinct} different in {column.cells} rows" if column.cells else "")
        + (f" ({column.trouble})" if column.trouble else "")
        for column in columns
    ]
    return "\n".join(lines) or "  there are no columns"
