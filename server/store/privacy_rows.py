"""What is read from the store of what sites have spent: plain values, as `server.store.rows` has of runs and rounds."""

from __future__ import annotations

from dataclasses import dataclass

from server.store.rows import Kind


@dataclass(frozen=True)
class ForecastRow:
    """When a budget runs out if rounds go on as the last one."""

    rounds_left: int | None
    """None: more than anybody plans for."""
    runs_out_at: float | None
    """None: no pace is known (a single receipt), or never."""
    exact: bool
    """False: at least so many rounds; the exact number takes longer to compute than this reading was given."""
    complete: bool | None
    """False: the site has charged what this coordinator has not seen, which is put down to rounds like the last. None:
    not known yet."""


@dataclass(frozen=True)
class PrivacyRow:
    """What one ledger has spent: one site, one dataset, across runs."""

    account: int
    site: str
    kind: Kind
    dataset: str
    key: str
    """Fingerprint of the key that signs for the ledger; empty when nothing was signed."""
    epsilon: float
    """Of everything ever charged to the dataset, at `delta`: the site's own figure."""
    delta: float
    at_most: float
    """The same with every task that was sent, and that no receipt covers, counted as charged."""
    unconfirmed: int
    """How many those are."""
    budget: float
    """The site's lifetime ε for this dataset."""
    left: float
    """Of the budget, when all that was sent has been charged."""
    epsilon_run: float
    """Of the run of the newest receipt, at that run's δ."""
    delta_run: float
    run: str
    adjacency: str
    unit: str
    noise_multiplier: float
    rate: float
    clip: float
    steps: int
    receipts: int
    insecure: int
    """Receipts whose noise came from a seed."""
    unverified: int
    """Receipts without a valid signature."""
    first_at: float
    last_at: float
    sequence: int
    digest: str
    forecast: ForecastRow

    @property
    def sound(self) -> bool:
        """Whether every receipt is signed, by one key."""
        return self.unverified == 0


@dataclass(frozen=True)
class ReceiptRow:
    """One charge, as the site signed it."""

    run: str
    round: int
    at: float
    sequence: int
    digest: str
    epsilon_run: float
    epsilon_lifetime: float
    noise_multiplier: float
    rate: float
    steps: int
    secure: bool
    verified: bool
