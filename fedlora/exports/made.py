"""How an adapter came to be, for whoever gets it: the run's own account, kept in fedlora.json and shown on its card.

Guarantee: nothing of a single site but what its ε says is in it: no name, no number of examples, no exact number of
sites.
"""

from __future__ import annotations

from itertools import pairwise

from pydantic import ConfigDict

from fedlora.protocol.task import Evaluation
from fedlora.settings import Settings

STEPS = (1, 2, 5)


class Protected(Settings):
    """What differential privacy says of the adapter, for one unit."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    unit: str
    adjacency: str
    epsilon: float | None
    """Of the site that has spent most, at most; None where nothing bounds it."""
    delta: float
    trusts: str | None = None
    """Who sees what the noise has not reached."""
    is_guarantee: bool = True
    """False where the noise came from a seed: such an ε is for tests."""


class Made(Settings):
    """One run, as far as it had come."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    strategy: str
    rounds: int
    clients: str
    """A range (`as_range`)."""
    bytes_up: int
    bytes_down: int
    """Of all rounds and clients."""
    source: str | None = None
    """A packaged source's name, where the run's examples are public; None for everybody's own."""
    evaluation: Evaluation | None = None
    """On the examples that the coordinator kept apart; None where there are none."""
    protected: tuple[Protected, ...] = ()
    not_covered: tuple[str, ...] = ()
    """What no ε above covers."""


def as_range(count: int) -> str:
    """A number as the range that it lies in: 1, 2-4, 5-9, 10-19, 20-49, ...

    >>> [as_range(count) for count in (1, 3, 9, 10, 480)]
    ['1', '2-4', '5-9', '10-19', '200-499']
    """
    bounds = [step * 10**power for power in range(12) for step in STEPS]
    low, high = next((low, high) for low, high in pairwise(bounds) if low <= count < high)
    return str(low) if high - low == 1 else f"{low}-{high - 1}"
