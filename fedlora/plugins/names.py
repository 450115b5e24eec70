"""Names of plug-ins, looked up without importing anything: `fedlora.config` stays light, and a message runs no code."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from fedlora.nearest import nearest
from fedlora.settings import SettingsError

DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Kind(Enum):
    """What can be added: the group of its entry points, the setting that names one, and what one is called."""

    STRATEGY = ("fedlora.strategies", "strategy.name", "strategy")
    TASK = ("fedlora.tasks", "model.task", "task")
    SOURCE = ("fedlora.sources", "data.source", "source of data")
    OPTIMIZER = ("fedlora.optimizers", "train.optimizer", "optimiser")

    def __init__(self, group: str, setting: str, noun: str) -> None:
        self.group, self.setting, self.noun = group, setting, noun


@cache
def registered(kind: Kind) -> dict[str, tuple[EntryPoint, ...]]:
    """By name what installed packages have registered; more than one where two packages took the same name."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for point in sorted(entry_points(group=kind.group), key=lambda point: point.value):
        found.setdefault(point.name, {})[target(point)] = point  # a package may be found twice on sys.path
    return {name: tuple(points.values()) for name, points in sorted(found.items())}


def target_of(kind: Kind, name: str) -> str | None:
    """`module:Thing` behind a name that somebody added; None for any other. SettingsError for one with two meanings."""
    if DOTTED.fullmatch(name):
        return name
    points = registered(kind).get(name, ())
    if len(points) > 1:
        raise SettingsError(
            f"{kind.setting}={name!r} is the name of {len(points)} installed plug-ins; write the one that is meant: "
            f"{' or '.join(map(target, points))}."
        )
    return target(points[0]) if points else None


def target(point: EntryPoint) -> str:
    """`module:Thing`, without the extras that a value may name."""
    return f"{point.module}:{point.attr}"


def is_plug_in(kind: Kind, name: str, own: Collection[str]) -> bool:
    """Whether somebody else added what the name stands for. What is fedlora's `own` can be replaced by nobody."""
    return name not in own and (DOTTED.fullmatch(name) is not None or name in registered(kind))


def known(kind: Kind, name: str, own: Collection[str]) -> str:
    """The name, where it is fedlora's own, registered, or dotted; ValueError with the nearest otherwise.

    >>> known(Kind.TASK, "causal-ml", ["causal-lm"])
    Traceback (most recent call last):
    ValueError: 'causal-ml' is no task; did you mean 'causal-lm'? There is causal-lm.
    """
    if name in own or is_plug_in(kind, name, own):
        return name
    names = [*own, *registered(kind)]
    near = nearest(name, names)
    asked = f"did you mean {near!r}? " if near else ""
    raise ValueError(f"{name!r} is no {kind.noun}; {asked}There is {', '.join(names)}.{_form(name)}")


def _form(name: str) -> str:
    """For a name that was meant to be dotted."""
    return " One of your own is written module:Thing." if "." in name or ":" in name else ""
