"""Which runs a list shows, and in which order: by what they are one of, by any setting, by any figure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, asc, desc, false

from fedlora.config import Recipe
from fedlora.differing import own
from fedlora.nearest import nearest
from fedlora.plain_yaml import YamlError, read_scalar
from fedlora.settings import SettingsError
from server.store.rows import RunRow
from server.store.tables import runs

FIELDS = {name: runs.c[name] for name in ("group", "method", "strategy", "kind", "name", "coordinator")}
"""What a run is found by besides its settings; and by its seed and its state."""

ORDERS = {
    "started": runs.c.begun_at, "ended": runs.c.ended_at, "name": runs.c.name, "group": runs.c["group"],
    "method": runs.c.method, "seed": runs.c.seed, "strategy": runs.c.strategy, "rounds": runs.c.rounds,
    "score": runs.c.score, "loss": runs.c.loss, "up": runs.c.bytes_up, "down": runs.c.bytes_down,
    "epsilon": runs.c.epsilon_max, "seconds": runs.c.seconds,
}  # fmt: skip
NEWEST_FIRST = "-started"


@dataclass(frozen=True)
class Choice:
    """What somebody asked to see."""

    where: Mapping[str, str]
    """Of a field, or of a setting by its dotted name, the value as text."""
    sort: str = NEWEST_FIRST
    """One of `ORDERS`, with a minus in front for the largest first."""

    @property
    def by_hand(self) -> bool:
        """Whether the database alone cannot tell which rows are chosen."""
        return any(key not in FIELDS and key != "seed" for key in self.where)


ALL = Choice({})


def chosen(where: Sequence[str], sort: str = NEWEST_FIRST) -> Choice:
    """From `key=value` texts; SettingsError for one that is none, or for a key or an order that there is not.

    >>> chosen(["group=codecs", "train.lr=0.1"]).where
    {'group': 'codecs', 'train.lr': '0.1'}
    """
    found = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise SettingsError(f"--where {text!r}: write it as key=value, for example --where train.lr=0.01.")
        known = [*FIELDS, "seed", "state", *Recipe.model_fields]
        if key not in known and key.partition(".")[0] not in Recipe.model_fields:
            near = nearest(key, known)
            guess = "." if near is None else f"; did you mean {near}?"
            raise SettingsError(
                f"--where {text!r}: runs have no {key}{guess} Choose {', '.join((*FIELDS, 'seed', 'state'))}, or a "
                "setting by its dotted name."
            )
        found[key] = value
    if sort.removeprefix("-") not in ORDERS:
        raise SettingsError(f"--sort {sort!r}: choose one of {', '.join(ORDERS)}, or -NAME for the largest first.")
    return Choice(found, sort)


def narrowed(query: Select[Any], choice: Choice) -> Select[Any]:
    """The part of it that the database does; what is not known comes last."""
    for key, value in choice.where.items():
        if key == "seed":
            query = query.where(runs.c.seed == int(value) if value.removeprefix("-").isdecimal() else false())
        elif key in FIELDS:
            query = query.where(FIELDS[key] == value)
    column = ORDERS[choice.sort.removeprefix("-")]
    order = desc if choice.sort.startswith("-") else asc
    return query.order_by(column.is_(None), order(column), order(runs.c.id))


def has(run: RunRow, recipe: str, choice: Choice) -> bool:
    """The rest of it: a state, which is not what the row says of a run that died, and settings."""
    settings = {key: value for key, value in choice.where.items() if key not in FIELDS and key not in ("seed", "state")}
    if choice.where.get("state", run.state) != run.state:
        return False
    values = json.loads(recipe) if settings else {}
    return all(_is(_at(values, key), wanted) for key, wanted in settings.items())


def set_apart(listed: Sequence[RunRow]) -> dict[str, Mapping[str, Any]]:
    """Of every run, by its id, what was changed of its recipe: of several of one comparison only where they differ."""
    together: dict[str | None, list[RunRow]] = defaultdict(list)
    for run in listed:
        together[run.group].append(run)
    found: dict[str, Mapping[str, Any]] = {}
    for group, some in together.items():
        changed = [run.changed or {} for run in some]
        found |= {run.run: apart for run, apart in zip(some, changed if group is None else own(changed), strict=True)}
    return found


def _at(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _is(value: Any, text: str) -> bool:
    try:
        return bool(value == read_scalar(text)) or value == text
    except YamlError:
        return bool(value == text)
