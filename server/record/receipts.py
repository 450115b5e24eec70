"""The newest receipt of every site's ledger, in this run and in all runs before it.

A site whose disk was put back to an older state, or emptied, cannot see it itself: its numbers, or its key, show it
here. An older copy is turned away until its numbers have passed those that are held: by then a person has seen it. A
new ledger is turned away until both administrators have acted (`server.record.new_ledgers`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlora.privacy.receipt import Receipt, ReceiptError, Signature, require_later
from fedlora.privacy.shown import at_most
from fedlora.protocol.versions import recorded
from server.record.new_ledgers import Accepted, read_accepted

log = logging.getLogger("fedlora.receipts")

ROUNDING = 1 - 1e-9
"""Of what is added up from several statements."""

Ledgers = Mapping[tuple[str, str], "LastReceipt"]
"""By site and dataset."""


@dataclass(frozen=True)
class LastReceipt:
    """A ledger's newest receipt, and the key that signed it."""

    receipt: Receipt | None
    """None: the site may begin a new ledger, and has not yet."""
    public_key: str | None
    given_up: tuple[Accepted, ...] = ()
    """Ledgers before this one that its site has lost, as both administrators agreed."""


def newest(
    clients: Iterable[Mapping[str, Any]], accepted: Sequence[Accepted] = ()
) -> dict[tuple[str, str], LastReceipt]:
    """The receipt with the highest sequence number of every ledger that goes on, among a run's client records."""
    given_up: dict[tuple[str, str], tuple[Accepted, ...]] = {}
    for one in accepted:
        ledger = (one.site, one.dataset)
        given_up[ledger] = (*given_up.get(ledger, ()), one)
    held = {ledger: LastReceipt(None, None, lost) for ledger, lost in given_up.items()}
    for client in clients:
        if not client.get("receipt"):
            continue
        receipt, signature = Receipt.model_validate(client["receipt"]), client.get("signature")
        ledger, key = (receipt.client, receipt.dataset), signature["public_key"] if signature else None
        if any(key == one.public_key for one in given_up.get(ledger, ())):
            continue
        known = held.get(ledger)
        if known is None or known.receipt is None or receipt.sequence > known.receipt.sequence:
            held[ledger] = replace(known or LastReceipt(None, None), receipt=receipt, public_key=key)
    return held


def clients_in(rounds: Path) -> list[dict[str, Any]]:
    """The client records of a rounds.jsonl; none of a file that is not there, nor of a line that a crash cut short."""
    return [client for line in _lines(rounds) for client in json.loads(line)["clients"]]


def held_in(runs: Path, *, but: Path | None = None) -> dict[tuple[str, str], LastReceipt]:
    """The newest receipts of all runs in a folder except one."""
    found: list[dict[str, Any]] = []
    for path in sorted(runs.glob("*/rounds.jsonl")):
        if path.parent != but:
            found += _readable(path)
    return newest(found, read_accepted(runs))


def earlier(runs: Path, *, than: Path) -> list[dict[str, Any]]:
    """The client records that hold the newest receipts of all runs beside this one."""
    return [
        {
            "receipt": recorded(kept.receipt),
            "signature": kept.public_key and {"public_key": kept.public_key},
        }
        for kept in held_in(runs, but=than).values()
        if kept.receipt is not None
    ]


def require_continues(now: Receipt, signature: Signature | None, held: LastReceipt | None) -> None:
    """ReceiptError unless `now` comes after what is held of the same ledger, signed with the same key.

    Of a new ledger, which was agreed on, also unless it states what the lost one may have spent: that it spends as much
    itself is no such thing.
    """
    if held is None:
        return
    key = signature.public_key if signature is not None else None
    for lost in held.given_up:
        _require_counted(now, key, lost)
    if held.receipt is None:
        return
    if held.public_key is not None and key != held.public_key:
        raise ReceiptError(
            f"the ledger of {now.client} is signed with another key than before: its state folder was replaced "
            "by a new one, which does not contain what was spent. Have the site restore it. If it is lost, fedlora "
            "admin accept-new-ledger shows what the site must count in the new ledger (fedlora ledger carry), and "
            f"accepts it: epsilon {at_most(held.receipt.epsilon_lifetime)} at delta {held.receipt.delta_lifetime:g} "
            "according to its newest receipt, plus tasks without a receipt."
        )
    require_later(now, held.receipt)


def _require_counted(now: Receipt, key: str | None, lost: Accepted) -> None:
    if key == lost.public_key:
        raise ReceiptError(
            f"the ledger of {now.client} is the one that was declared lost; an old copy was restored. "
            "Have the site restore the newer ledger."
        )
    if now.epsilon_stated < lost.epsilon * ROUNDING or now.delta_stated < lost.delta * ROUNDING:
        raise ReceiptError(
            f"the new ledger of {now.client} states epsilon {now.epsilon_stated:.4g} at delta {now.delta_stated:g} as "
            f"spent before it, but {at_most(lost.epsilon)} at {lost.delta:g} may have been spent: have the site "
            "state that with fedlora ledger carry."
        )


def _lines(rounds: Path) -> Iterator[str]:
    if rounds.exists():
        yield from (line for line in rounds.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n")


def _readable(rounds: Path) -> list[dict[str, Any]]:
    """The records of the lines that can be read: a damaged one costs its own receipts, and no other's."""
    found: list[dict[str, Any]] = []
    for line in rounds.read_bytes().splitlines(keepends=True):
        try:
            if line.endswith(b"\n"):
                clients = json.loads(line)["clients"]
                newest(clients)  # they are receipts
                found += clients
        except (ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s is damaged: the receipts of a round were not compared with earlier ones", rounds)
    return found
