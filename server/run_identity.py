"""What a run is made of besides its recipe: classes in their order, base model, and in a simulation everybody's data.

    made_of.json    written with round 0, compared by --resume before anything is changed

A layer whose rows change their classes is another one, and a sum of residuals belongs to the weights that it was
made on. Where all of this is the same, paths may be others: the run was moved, and goes on. The device is no part of a
run; a former `model.device` in a recipe stays as it was, because tasks are known by what they say. A run of version
0.1.0 has no such file; its paths are compared as the rest of its recipe, and it is bound from its first resume on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedlora.files import write_atomically
from fedlora.settings import SettingsError
from server.record.checkpoint import CheckpointError

FILE = "made_of.json"
MAY_MOVE = ("model.id", "data.source")
MOST_NAMED = 5


@dataclass(frozen=True)
class MadeOf:
    """Compared by value."""

    classes: tuple[str, ...]
    """In the order of the task's outputs."""
    base: str
    """The base model's fingerprint."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Digests of examples, by whose they are; empty in a deployment, where a coordinator knows nothing of them."""


def bind(folder: Path, made_of: MadeOf) -> None:
    write_atomically(folder / FILE, json.dumps(asdict(made_of), indent=1).encode())


def bound(folder: Path) -> MadeOf | None:
    """None where nothing was written. SettingsError where it cannot be read."""
    try:
        content = json.loads((folder / FILE).read_bytes())
        return MadeOf(tuple(content["classes"]), content["base"], dict(content["data"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SettingsError(
            f"{folder / FILE} is damaged ({type(error).__name__}); restore it from a backup, or start a new run in "
            "another folder."
        ) from None


def require_same(folder: Path, then: MadeOf, now: MadeOf) -> None:
    """CheckpointError that names everything that is another one."""
    found = list(_differences(then, now))
    if found:
        raise CheckpointError(
            f"the run in {folder} was started with other classes, data or models: {'; '.join(found)}. Resume it with "
            "the original ones, or start a new run in another folder."
        )


def _differences(then: MadeOf, now: MadeOf) -> Iterator[str]:
    if then.classes != now.classes:
        yield f"its classes are {', '.join(then.classes)}, in this order, but now they are {', '.join(now.classes)}"
    if then.base != now.base:
        yield f"its base model has the fingerprint {then.base}, but the loaded one has {now.base}"
    if gone := then.data.keys() - now.data.keys():
        yield f"{_named(gone)} had examples and is missing"
    if new := now.data.keys() - then.data.keys():
        yield f"{_named(new)} is new"
    if changed := {name for name in then.data.keys() & now.data.keys() if then.data[name] != now.data[name]}:
        yield f"{_named(changed)} has other examples"


def _named(names: Collection[str]) -> str:
    listed = ", ".join(map(repr, sorted(names)[:MOST_NAMED]))
    return listed if len(names) <= MOST_NAMED else f"{listed} and {len(names) - MOST_NAMED} more: each"
