"""A round's record: plain values, written to rounds.jsonl and the store, and shown on screen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedlora.config import DeviceSettings
from fedlora.privacy.receipt import Receipt, Signature
from fedlora.protocol.machine import Machine
from fedlora.protocol.task import Evaluation
from fedlora.wire.packing import Packing
from server.record.outcomes import Outcome as Outcome

SCREENED_OUT = "screened-out"
"""Code of an update that a robust rule left out; it may be an honest client's."""


BAD_RECEIPT = "bad-receipt"
"""The code of an update whose receipt does not continue the site's ledger; `why` says how."""


@dataclass(frozen=True)
class ClientRecord:
    """One client in one round. `code` says why when it did not train; never free text from a site."""

    client: str
    node: int
    outcome: Outcome
    code: str | None = None
    why: str | None = None
    """The coordinator's explanation, if the code alone is not enough."""
    examples: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0
    received: Evaluation | None = None
    """The adapter as received, on the client's own test examples."""
    tokens: int | None = None
    """Learnt tokens of its examples, where clients are weighted by them."""
    train_loss: float | None = None
    skipped_steps: int = 0
    """Its local steps that were not finite and changed nothing."""
    held_as: str | None = None
    """The form in which it holds the base, where it is another than the run's (`model.also_held_as`)."""
    packing: Packing | None = None
    """How its update was packed and what that lost, as reported by the client."""
    resources: DeviceSettings | None = None
    """Resources that the site declared with this answer, if it did."""
    machine: Machine | None = None
    """Versions and device of the site, if reported with this answer."""
    receipt: Receipt | None = None
    """Under privacy: what the site charged to its ledger for this round, as it signed it."""
    signature: Signature | None = None
    """The signature of that receipt, which anyone can verify."""
    change_norm: float | None = None
    """‖ΔW_k - ΔW_sent‖_F with what trains whole, as it arrived; None where robust aggregation does not measure it."""


@dataclass(frozen=True)
class RoundRecord:
    """One round. Everything but `seconds` is the same for the same seed and machine."""

    round: int
    clients: tuple[ClientRecord, ...]
    aggregation_error: float | None
    """‖ΔW_ideal - ΔW_served‖ / ‖ΔW_ideal‖; None where there is no one served model (FedSA-LoRA), or where it is no mean
    of updates (coordinate median). Ideal is the mean of what a robust rule let in, after clipping."""
    evaluation: Evaluation | None
    """The new global adapter on the shared test set; None in rounds that do not evaluate."""
    base_version: int
    seconds: float
    download_left_out: float | None = None
    """Under `wire.download: changes`: share of the change that a lossy codec left out, to come with later ones."""

    lr: float | None = None
    """The learning rate with which the round began; None where it is `train.lr` in all rounds, or known to sites
    alone."""

    @property
    def bytes_up(self) -> int:
        return sum(client.bytes_up for client in self.clients)

    @property
    def bytes_down(self) -> int:
        return sum(client.bytes_down for client in self.clients)

    def count(self, outcome: Outcome) -> int:
        return sum(client.outcome == outcome for client in self.clients)


@dataclass(frozen=True)
class Waiting:
    """Fewer clients are connected than a round needs."""

    connected: int
    needed: int
    seconds_left: float


@dataclass(frozen=True)
class RoundStarted:
    round: int
    asked: int


@dataclass(frozen=True)
class TasksSent:
    """The round's messages are out."""

    round: int


@dataclass(frozen=True)
class ClientAnswered:
    round: int
    record: ClientRecord


@dataclass(frozen=True)
class RoundFinished:
    record: RoundRecord


Event = Waiting | RoundStarted | TasksSent | ClientAnswered | RoundFinished
EventCallback = Callable[[Event], None]
"""Called in the loop's thread as things happen: progress on screen, the store, a log."""
