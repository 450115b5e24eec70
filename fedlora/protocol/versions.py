"""Versions that work together: what is written leaves out what an older version does not know and does not need.

    PROTOCOL 1   fedlora 0.1.0; its messages do not say a version
    PROTOCOL 2   every message says what its sender speaks, beside the JSON, where 0.1.0 does not look

A setting or field added later is annotated with the version that added it, and its default is what a version without it
does. It is written only where it differs from that default, in messages, recipes, checkpoints and digests alike:

    padding: Annotated[int | None, Since(2)] = None

Guarantee, with N the version that runs and M another one:
 1. What N writes and M < N can do is text that M reads: fields that M does not know are absent.
 2. What N writes and M < N cannot do is refused by M, and never done without the field: unknown fields are refused.
    Only a field that its sender marks `ignorable` is left out by a reader that does not know it.
 3. Digests of a task are the same at both, so that a retried task is known again after an upgrade of either side.
The default of a field with `Since` never changes, and a field of version 1 is always written: a recipe's defaults may.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedlora import __version__
from fedlora.plain_yaml import shortened
from fedlora.settings import Settings, parse

PROTOCOL = 2
PROTOCOL_KEY, IGNORABLE_KEY = "protocol", "ignorable"
"""Names beside the JSON in a Flower record; 0.1.0 looks at the JSON alone."""
LARGEST_PROTOCOL = 10_000
SHOWN_FIELDS, SHOWN_CHARS = 5, 80

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Since:
    """Annotation of a field that was added in this version of the protocol."""

    protocol: int
    ignorable: bool = False
    """Whether a receiver that does not know the field may do without it, rather than refuse."""


class NewerProtocolError(ValueError):
    """A message that only a later version understands; the text names both versions and the way out."""


def recorded(model: BaseModel) -> dict[str, Any]:
    """`model` as plain values, without what was added after protocol 1 and is at its default."""
    return model.model_dump(mode="json", exclude=_left_out(model))


def agreed(model: BaseModel) -> dict[str, Any]:
    """The fields of `model` that every version has that may act on it, for digests: `recorded`, without what may be
    ignored."""
    values = recorded(model)
    return _without(values, [tuple(name.split(".")) for name in ignorable(model)])


def recorded_json(model: BaseModel, *, without: Collection[str] = ()) -> str:
    """The same as JSON text, `without` some of the fields."""
    return model.model_dump_json(exclude=_left_out(model) | dict.fromkeys(without, True))


def sparse_json(model: BaseModel, *, known: int) -> str:
    """JSON for somebody who speaks protocol `known`, without what is at its default: those of reports stay."""
    return model.model_dump_json(exclude=_left_out(model, known), exclude_defaults=True)


def ignorable(model: BaseModel) -> list[str]:
    """Dotted names of what is written of `model` and may be left out by whoever does not know it."""
    found: list[str] = []
    for name, since in _fields(type(model)):
        value = getattr(model, name)
        if since is not None and since.ignorable and value != _default(type(model), name):
            found.append(name)
        elif isinstance(value, BaseModel):
            found += [f"{name}.{inner}" for inner in ignorable(value)]
    return found


def spoken(record: Mapping[str, Any]) -> int:
    """Protocol version of a message's sender, as stated beside the JSON; ValueError if it is not a version."""
    version = record.get(PROTOCOL_KEY, 1)
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= LARGEST_PROTOCOL:
        raise ValueError(f"{shortened(repr(version), SHOWN_CHARS)} is not a version of the protocol")
    return version


def received(kind: type[S], values: Any, *, spoken: int, may_ignore: Collection[str] = ()) -> S:
    """A message of somebody who speaks protocol `spoken`. NewerProtocolError or SettingsError if it cannot be read."""
    if not isinstance(values, Mapping):
        return parse(kind, {})
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        unknown = [tuple(item["loc"]) for item in error.errors() if item["type"] == "extra_forbidden"]
    skipped = [path for path in unknown if ".".join(map(str, path)) in may_ignore]
    if skipped:
        return received(kind, _without(values, skipped), spoken=spoken)
    if spoken > PROTOCOL:
        raise NewerProtocolError(_newer(unknown, spoken))
    return parse(kind, values)


def _left_out(model: BaseModel, known: int | None = None) -> dict[str, Any]:
    """What `exclude` of pydantic takes: what is at its default or, for somebody who speaks `known`, later than that."""
    found: dict[str, Any] = {}
    for name, since in _fields(type(model)):
        value = getattr(model, name)
        later = since is not None and known is not None and since.protocol > known
        if later or (since is not None and value == _default(type(model), name)):
            found[name] = True
        elif isinstance(value, BaseModel):
            found |= {name: inner} if (inner := _left_out(value, known)) else {}
        elif isinstance(value, Mapping):
            inside = {key: _left_out(item, known) for key, item in value.items() if isinstance(item, BaseModel)}
            found |= {name: inner} if (inner := {key: out for key, out in inside.items() if out}) else {}
    return found


@cache
def _fields(kind: type[BaseModel]) -> tuple[tuple[str, Since | None], ...]:
    """Every field, and since when it is there; None: always."""
    return tuple((name, _since(field.metadata)) for name, field in kind.model_fields.items())


def _since(metadata: list[Any]) -> Since | None:
    return next((item for item in metadata if isinstance(item, Since)), None)


def _default(kind: type[BaseModel], name: str) -> Any:
    return kind.model_fields[name].get_default(call_default_factory=True)


def _without(values: Mapping[str, Any], paths: list[tuple[int | str, ...]]) -> dict[str, Any]:
    copy = json.loads(json.dumps(values))
    for path in paths:
        here = copy
        for part in path[:-1]:
            here = here[part]
        del here[path[-1]]
    return dict(copy)


def _newer(unknown: list[tuple[int | str, ...]], spoken: int) -> str:
    names = [shortened(".".join(map(str, path)), SHOWN_CHARS) for path in unknown[:SHOWN_FIELDS]]
    more = f" and {len(unknown) - SHOWN_FIELDS} more" if len(unknown) > SHOWN_FIELDS else ""
    what = (
        f"{', '.join(names)}{more}, which this version does not know"
        if names
        else "values that this version does not know"
    )
    return (
        f"the message is of protocol {spoken}, this is fedlora {__version__} with protocol {PROTOCOL}: it has {what}. "
        "Upgrade fedlora on this side, or remove these settings from the recipe."
    )
