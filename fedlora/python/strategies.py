"""`strategies`: how updates can be combined, those of installed packages too."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from fedlora.units_path import add_units_to_path


@dataclass(frozen=True)
class About:
    """One strategy."""

    name: str
    """As `strategy.name` has it."""
    trains: tuple[str, ...]
    """Factors that clients train and send in round 1."""
    exact: bool
    """Whether the served ΔW is the weighted mean of the clients' ΔW, every round."""
    private: bool
    """Whether it goes with example-level differential privacy."""
    paper: str
    summary: str
    """What it does, in a line."""


def strategies() -> tuple[About, ...]:
    """Every strategy that has a name here, sorted.

    >>> {one.name: one.trains for one in strategies()}["ffa"]
    ('B', 'head')
    """
    add_units_to_path()
    registry = importlib.import_module("strategies.registry")
    return tuple(about(registry.build(name, {}), name) for name in registry.names())


def about(strategy: object, name: str) -> About:
    """Of a strategy that is built (`strategies.base.Strategy`)."""
    traits, trained = strategy.traits, strategy.trains(1)  # type: ignore[attr-defined]  # found by name, not imported
    said = (type(strategy).__doc__ or "").strip().partition("\n")[0]
    return About(
        name,
        tuple(sorted(factor.value for factor in trained)),
        traits.exact,
        traits.example_level_dp,
        traits.paper,
        said,
    )
