"""What the coordinator remembers of sites' ledgers: the newest receipt of each, in this run and in all before it.

A site whose disk was put back to an older state, or emptied, cannot see it itself: its numbers, or its key, show it
here. An older copy is turned away until its numbers have passed those that are held: by then a person has seen it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.privacy.receipt import Receipt, ReceiptError, Signature, require_later

log = logging.getLogger("fedlora.receipts")

Ledgers = Mapping[tuple[str, str], "Held"]
"""By site and dataset."""


@dataclass(frozen=True)
class Held:
    """A ledger's newest receipt, and the key that signed it."""

    receipt: Receipt
    public_key: str | None


def newest(clients: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Held]:
    """The receipt with the highest sequence number of every ledger, among a run's client records."""
    held: dict[tuple[str, str], Held] = {}
    for client in clients:
        if not client.get("receipt"):
            continue
        receipt, signature = Receipt.model_validate(client["receipt"]), client.get("signature")
        ledger = (receipt.client, receipt.dataset)
        if ledger not in held or receipt.sequence > held[ledger].receipt.sequence:
            held[ledger] = Held(receipt, signature["public_key"] if signature else None)
    return held


def clients_in(rounds: Path) -> list[dict[str, Any]]:
    """The client records of a rounds.jsonl; none of a file that is not there, nor of a line that a crash cut short."""
    lines = rounds.read_text(encoding="utf-8").splitlines(keepends=True) if rounds.exists() else []
    return [client for line in lines if line.endswith("\n") for client in json.loads(line)["clients"]]


def earlier(runs: Path, *, than: Path) -> list[dict[str, Any]]:
    """The client records that hold the newest receipts of all runs beside this one."""
    found: list[dict[str, Any]] = []
    for path in sorted(runs.glob("*/rounds.jsonl")):
        try:
            found += [] if path.parent == than else clients_in(path)
        except (ValueError, KeyError, TypeError):
            log.warning("%s is damaged: its receipts are not held against the sites", path)
    held = newest(found)
    return [
        {
            "receipt": kept.receipt.model_dump(),
            "signature": kept.public_key and {"public_key": kept.public_key},
        }
        for kept in held.values()
    ]


def require_continues(now: Receipt, signature: Signature | None, held: Held | None) -> None:
    """ReceiptError unless `now` comes after what is held of the same ledger, signed with the same key."""
    if held is None:
        return
    if held.public_key is not None and (signature is None or signature.public_key != held.public_key):
        raise ReceiptError(
            f"the ledger of {now.client} is signed with another key than before: its state folder was replaced by a "
            "new one, which has forgotten what was spent. Have the site restore it from a backup. If it is lost, the "
            f"site counts what it had spent, epsilon {held.receipt.epsilon_lifetime:.3f} at delta "
            f"{held.receipt.delta_lifetime:g} or more, in its new ledger: fedlora ledger carry."
        )
    require_later(now, held.receipt)
