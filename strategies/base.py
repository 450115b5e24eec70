"""The strategy interface: pure functions between values. A new strategy is one file and one line in the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from fedlora.lowrank import Product
from fedlora.settings import Settings
from fedlora.updates import Adapter, Factor, Tensors, Update

Weighting = Literal["examples", "tokens", "uniform"]


@dataclass(frozen=True)
class State:
    """What the coordinator holds between rounds: a value that is saved, loaded and compared.

    A base that moves has versions: the last of `residuals` is what led to the newest one, the one before it to the
    version before, and so on; `past` is the sum of all older ones, `merged` their number. See `strategies.versions`.
    `memory` is whatever else a strategy remembers (server momentum, ...), under names of its own choosing.
    """

    adapter: Adapter
    residuals: tuple[Mapping[str, Product], ...] = ()
    memory: Tensors = field(default_factory=dict)
    past: Mapping[str, Product] = field(default_factory=dict)
    merged: int = 0

    @property
    def base_version(self) -> int:
        """How many times the base has moved."""
        return self.merged + len(self.residuals)


@dataclass(frozen=True)
class Combined:
    """One round's updates as one: read once, in any order, with memory independent of their number.

    `mean` is the weighted mean of every factor (float64); `ideal` is Σ w_k s_k B_k A_k, what an exact aggregation
    serves; both with weights normalised over the participants.
    """

    mean: Adapter
    ideal: Mapping[str, Product]
    clients: int
    weight: float
    residual: Mapping[str, Product] = field(default_factory=dict)
    """What the served mean lacks of `ideal`, where a strategy adds it to the base."""
    measured: bool = True
    """Whether the round's aggregation error is reported. False if `ideal` was not kept, or the served state is not a
    mean."""


@dataclass(frozen=True)
class RankAllocation:
    """A client's part of one matrix: its rank (0: none) and its own scale s_k = α / r_k."""

    rank: int
    scale: float


@dataclass(frozen=True)
class Recipient:
    """Recipient of a broadcast: its base version, and its shares if devices are unequal."""

    client: str
    held_version: int | None = None
    shares: Mapping[str, RankAllocation] | None = None


@dataclass(frozen=True)
class Payload:
    """A client's input to the round: the adapter, and what to add once to its base."""

    adapter: Adapter
    base_version: int = 0
    residual: Mapping[str, Product] = field(default_factory=dict)
    residual_since: int = 0
    """The version that the residual is to be added to; 0 is the base itself."""


@dataclass(frozen=True)
class Traits:
    """Properties of a strategy, for users who choose one."""

    paper: str
    exact: bool
    """Served ΔW equals the weighted mean of the clients' ΔW, every round."""
    unequal_ranks: bool
    linear_uploads: bool
    """The state depends on the updates only through weighted sums of what is sent: secure aggregation works, and
    coordinate-wise robust statistics mean something."""
    moves_base: bool
    example_level_dp: bool
    fixed_coordinates: bool = False
    """Rows of A and columns of B mean the same in every round and the state is the mean: server momentum works."""
    redraws: bool = False
    """Clients start every round in other coordinates: nothing that one round left out can be added in the next."""
    keeps: frozenset[Factor] = frozenset()
    """Factors that every client trains and keeps; then there is no global model."""
    own_weights: bool = False
    """Whether clients are weighted by their updates, not by examples and not equally."""


class Strategy(Protocol):
    """Pure: arguments are never changed, the next state is returned."""

    @property
    def traits(self) -> Traits: ...

    def trains(self, round_number: int) -> frozenset[Factor]:
        """The factors that clients train and send in this round (1-based)."""
        ...

    def init(self, adapter: Adapter) -> State:
        """The state before round 1, from the coordinator's initial adapter."""
        ...

    def combine(self, updates: Iterable[Update]) -> Combined:
        """Read the updates once. No update at all is a ValueError."""
        ...

    def step(self, state: State, combined: Combined) -> State:
        """The next round's state."""
        ...

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        """The broadcast for this recipient at the start of a round."""
        ...

    def residual_rank(self, *, clients: int, r: int) -> int:
        """The largest rank of what a round of so many clients adds to a matrix of the base; 0 where none moves."""
        ...


class StrategySettings(Settings):
    """Base of every strategy: its fields are the settings under `strategy:` besides `name`, and its methods what most
    strategies do. A strategy's file says what it does otherwise."""

    weighting: Weighting = "examples"
    """Weights w_k: `examples` is N_k over the participants' total, `tokens` the same with the learnt tokens of those
    examples (of causal-lm, and not under privacy), `uniform` is 1/K."""

    def init(self, adapter: Adapter) -> State:
        """The coordinator's initial adapter as it is."""
        return State(adapter)

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        """The whole adapter, to everybody; the base is as it was."""
        return Payload(state.adapter)

    def residual_rank(self, *, clients: int, r: int) -> int:
        """No residual: the base does not move."""
        return 0
