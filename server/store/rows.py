"""Rows read from the store: plain values for pages, the API, exports and tests.

Times are Unix seconds, durations seconds, sizes bytes. None: not known, or not measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedlora.tasks.metric import Metric
from server.record.outcomes import Outcome
from server.store.former import Former, FormerOfOrder, FormerOfRun, FormerOfSite

Kind = Literal["simulation", "deployment"]
State = Literal["waiting", "running", "paused", "finished", "stopped", "failed", "died", "lost"]
"""`died`: its process on this machine is gone; `lost`: a process on another machine has not reported for long."""

ACTIVE: tuple[State, ...] = ("waiting", "running", "paused")


@dataclass(frozen=True)
class WaitingRow:
    """A round cannot start: too few clients are connected."""

    connected: int
    needed: int
    until: float
    """When the run gives up."""


@dataclass(frozen=True)
class RunRow(FormerOfRun):
    """One run as a list shows it."""

    id: int
    run: str
    name: str
    kind: Kind
    coordinator: str
    folder: str
    strategy: str
    state: State
    reason: str | None
    """Why it failed or was stopped."""
    started_at: float
    last_seen_at: float
    """Last sign of life of its process."""
    ended_at: float | None
    rounds: int
    """Completed."""
    total_rounds: int
    seconds: float
    """Of all completed rounds together."""
    round_seconds: float | None
    """Current duration of a round: an exponentially weighted mean."""
    eta_at: float | None
    """When it will be finished at that rate, to ten seconds, so that a run of which nothing is new is the same at the
    next look; None unless it is going on."""
    round_started_at: float | None
    asked: int | None
    """Clients of the round that is going on."""
    answered: int | None
    waiting: WaitingRow | None
    metric: str
    """The figure that runs of this task are compared by: `loss`, or one of `metrics`."""
    larger_is_better: bool
    unit: str
    """Unit of its values; `%` for a share."""
    score: float | None
    """Its value after the last round that was evaluated; `loss` and `metrics` likewise."""
    best_score: float | None
    loss: float | None
    metrics: Mapping[str, float]
    """All that the task measures besides the loss."""
    aggregation_error_max: float | None
    bytes_up: int
    bytes_down: int
    dense_up: int | None
    """What the same updates would have cost as whole float32 factors."""
    dense_down: int | None
    epsilon_max: float | None
    """The worst site's ε of this run; None without privacy."""
    insecure: bool
    """Some noise came from a seed: every ε of this run is for tests only."""
    group: str | None = None
    """The comparison that it is one of."""
    method: str | None = None
    """What is compared there: runs of one method differ in settings that are swept, and in their seed."""
    changed: Mapping[str, Any] | None = None
    """What was changed of its recipe's file, values by dotted names; neither its name nor its seed. None where nobody
    said."""
    seed: int | None = None
    accuracy: Former = None
    best_accuracy: Former = None

    @property
    def judged_by(self) -> Metric:
        return Metric(self.metric, self.larger_is_better, self.unit)

    @property
    def progress(self) -> float:
        """Between 0 and 1."""
        return min(1.0, self.rounds / self.total_rounds)

    @property
    def active(self) -> bool:
        return self.state in ACTIVE


@dataclass(frozen=True)
class RunDetail:
    """What a run was made with."""

    recipe: Mapping[str, Any]
    versions: Mapping[str, str]
    dense_bytes: int | None
    """One client's whole float32 factors, one way."""


@dataclass(frozen=True)
class RoundRow:
    """One round."""

    round: int
    finished_at: float
    seconds: float
    score: float | None
    """On the coordinator's test set; `loss`, `metrics` and `examples` likewise."""
    loss: float | None
    metrics: Mapping[str, float]
    examples: int | None
    client_score: float | None
    """Mean over clients of the received adapter on their own test examples, by number of examples."""
    client_loss: float | None
    train_loss: float | None
    aggregation_error: float | None
    base_version: int
    asked: int
    trained: int
    refused: int
    failed: int
    late: int
    bytes_up: int
    bytes_down: int
    epsilon_max: float | None
    accuracy: Former = None
    client_accuracy: Former = None


@dataclass(frozen=True)
class ClientRoundRow:
    """One client in one round: a cell of the timeline."""

    round: int
    site: str
    outcome: Outcome
    code: str | None
    examples: int
    bytes_up: int
    bytes_down: int
    seconds: float
    score: float | None
    loss: float | None
    metrics: Mapping[str, float]
    train_loss: float | None
    epsilon_run: float | None
    accuracy: Former = None


@dataclass(frozen=True)
class FailureRow:
    """Why a site did not train, counted."""

    site: str
    outcome: Outcome
    code: str
    count: int
    last_round: int
    last_at: float


@dataclass(frozen=True)
class RunSiteRow(FormerOfSite):
    """One site in one run."""

    site: str
    node: str
    asked: int
    trained: int
    refused: int
    failed: int
    late: int
    missed_in_a_row: int
    """Rounds in a row, up to the last one, in which it was asked and did not train."""
    bytes_up: int
    bytes_down: int
    mean_seconds: float | None
    last_seconds: float | None
    last_round: int
    last_seen_at: float | None
    last_outcome: Outcome
    last_code: str | None
    examples: int | None
    score: float | None
    loss: float | None
    metrics: Mapping[str, float]
    resources: Mapping[str, Any] | None
    """What it declared that it can carry; None: nothing."""
    machine: Mapping[str, Any] | None
    """Versions and device (`fedlora.protocol.machine`), as it said last; None: it did not say, or is simulated here."""
    accuracy: Former = None


@dataclass(frozen=True)
class SiteRow(FormerOfSite):
    """One site over all runs."""

    site: str
    kind: Kind
    runs: int
    asked: int
    trained: int
    refused: int
    failed: int
    late: int
    bytes_up: int
    bytes_down: int
    mean_seconds: float | None
    last_asked_at: float
    last_seen_at: float | None
    last_run: str
    """The run that asked it last."""
    last_outcome: Outcome
    last_code: str | None
    missed_in_a_row: int
    missing_since: float | None
    """Set while it has not answered several rounds in a row."""
    resources: Mapping[str, Any] | None
    """What it declared that it can carry; None: nothing."""
    machine: Mapping[str, Any] | None
    """Versions and device (`fedlora.protocol.machine`), as it said last; None: it did not say, or is simulated here."""


@dataclass(frozen=True)
class EventRow:
    """One line of the audit log."""

    sequence: int
    at: float
    kind: str
    who: str
    run: str | None
    fields: Mapping[str, Any]
    digest: str


@dataclass(frozen=True)
class OrderRow(FormerOfOrder):
    """One command to a run."""

    id: int
    action: str
    argument: str | None
    who: str
    created_at: float
    handled_at: float | None
    """When the run's loop carried it out; None until then."""
    outcome: str | None
