"""Spending carried over into a dataset's ledger: another name's charges, or an ε that a person states.

    {"kind": "carried", "from": "old", "events": [...], "epsilon": 0.0, "delta": 0.0, "names": {"old": 12},
     "runs": ["run-1"], ...}

Charges that are known individually are composed with the dataset's own, as if they had been made here. An (ε, δ) that
is only stated (for a ledger that was lost) is added to the rest: basic composition, the safe way if nothing more is
known. Carried spending counts permanently; no entry removes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.chain import Entry
from fedlora.privacy.ledger import LedgerFiles, datasets, exclusive_ledger, inspect_ledger
from fedlora.privacy.signing import PrivateKey
from fedlora.settings import SettingsError


@dataclass(frozen=True)
class Spent:
    """Everything that a ledger counts, its own charges and what it carries."""

    events: tuple[Event, ...]
    stated_epsilon: float
    stated_delta: float
    through: Mapping[str, int] = field(default_factory=dict)
    """Other datasets, and up to which entry their ledger is counted here."""
    runs: frozenset[str] = frozenset()
    """Runs that made the charges: none of them goes on where its charges are only carried."""

    def epsilon(self, *, delta: float) -> float:
        """Upper bound on ε at `delta` of all of it; inf where what was stated already has that δ."""
        if delta <= self.stated_delta:
            return math.inf
        return self.stated_epsilon + epsilon(self.events, delta=delta - self.stated_delta)


def spent_of(entries: Iterable[Entry]) -> Spent:
    """The spending in one ledger's entries, composed in any order."""
    events: list[Event] = []
    stated_epsilon = stated_delta = 0.0
    through: dict[str, int] = {}
    runs: set[str] = set()
    for entry in entries:
        if entry.kind == "charge":
            events.append(event_of(entry.fields))
            runs.add(entry.fields["run"])
        elif entry.kind == "carried":
            events.extend(map(event_of, entry.fields["events"]))
            stated_epsilon += float(entry.fields["epsilon"])
            stated_delta += float(entry.fields["delta"])
            runs.update(entry.fields["runs"])
            through |= {name: max(number, through.get(name, 0)) for name, number in entry.fields["names"].items()}
    return Spent(tuple(events), stated_epsilon, stated_delta, through, frozenset(runs))


def event_of(charge: Mapping[str, Any]) -> Event:
    """The event of a ledger's charge, for the accountant."""
    return Event(rate=charge["rate"], noise_multiplier=charge["noise_multiplier"], steps=charge["steps"])


def spends(entry: Entry, *, beside: str) -> bool:
    """Whether an entry counts beside the dataset `beside`: what is carried from that one stands in its own ledger."""
    return entry.kind == "charge" or (entry.kind == "carried" and entry.fields["from"] != beside)


def last_spent(entries: Iterable[Entry], *, beside: str) -> int:
    """The number of the last entry that spends something that `beside` has not spent itself; 0 where none does."""
    return max((entry.sequence for entry in entries if spends(entry, beside=beside)), default=0)


def to_carry(site: Path, dataset: str, source: str) -> Spent:
    """The spending of `source` that the ledger of `dataset` does not count yet.

    SettingsError where there is nothing, or where the ledger of `source` cannot be trusted.
    """
    if source == dataset or source not in datasets(site):
        others = ", ".join(name for name in datasets(site) if name != dataset)
        raise SettingsError(f"{site} has no other dataset {source!r} with a ledger; known: {others or 'none'}.")
    chain = inspect_ledger(LedgerFiles(site, source))
    if chain.problem is not None:
        raise SettingsError(
            f"the ledger of {source} cannot be trusted: {chain.problem}. Restore it, or state the most that was "
            "spent with --epsilon, --delta and --reason."
        )
    counted = spent_of(inspect_ledger(LedgerFiles(site, dataset)).entries).through.get(source, 0)
    later = [entry for entry in chain.entries if entry.sequence > counted and spends(entry, beside=dataset)]
    if not later:
        raise SettingsError(f"{source} has spent nothing that {dataset} does not already count.")
    names = {name: number for name, number in spent_of(chain.entries).through.items() if name != dataset}
    return replace(spent_of(later), through={**names, source: len(chain.entries)})


def carry_over(site: Path, dataset: str, spent: Spent, *, key: PrivateKey, source: str, reason: str) -> Entry:
    """Append `spent` to the ledger of `dataset`: counted from when this returns. Refusal where that one is damaged."""
    steps = Counter[tuple[float, float]]()
    for event in spent.events:
        steps[event.rate, event.noise_multiplier] += event.steps
    entry = {
        "kind": "carried",
        "from": source,
        "events": [{"rate": q, "noise_multiplier": s, "steps": n} for (q, s), n in sorted(steps.items())],
        "epsilon": spent.stated_epsilon,
        "delta": spent.stated_delta,
        "names": dict(spent.through),
        "runs": sorted(spent.runs),
        "reason": reason,
    }
    with exclusive_ledger(LedgerFiles(site, dataset), key) as ledger:
        return ledger.append(entry)
