"""What sites have spent, from the receipts that came with their updates.

An account is one ledger: a site, a dataset, and the key that signs. Receipts outlive the rounds and runs that brought
them: a run that went back, or was removed, has been charged all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, case, select, update

from fedlora.privacy.chain import canonical
from fedlora.privacy.receipt import Receipt, Signature
from fedlora.privacy.signing import SignatureError, require_signed
from fedlora.protocol.versions import recorded, recorded_json
from fedlora.settings import SettingsError
from server.record.records import RoundRecord
from server.store.audit import append_event
from server.store.keys import upsert
from server.store.tables import accounts, charges, receipts
from server.store.values import plain, whole


def write_receipts(
    connection: Connection, run: str, record: RoundRecord, sites: Mapping[str, int], *, at: float
) -> None:
    """Every receipt of a round; one that is already there is a retried task, and counts once."""
    for client in record.clients:
        if client.receipt is not None:
            site_id = sites[plain(client.client)]
            write_receipt(connection, run, client.receipt, client.signature, site_id=site_id, at=at)


def write_receipt(
    connection: Connection, run: str, receipt: Receipt, signature: Signature | None, *, site_id: int, at: float
) -> None:
    """One receipt, and what it adds to its account."""
    verified = is_signed(recorded(receipt), signature)
    key = signature.public_key if signature is not None and verified else ""
    account = _account(connection, site_id, receipt, key, at=at)
    added = connection.execute(
        upsert(connection, receipts).on_conflict_do_nothing(),
        {
            "account_id": account,
            "digest": plain(receipt.digest),
            "sequence": whole(receipt.sequence),
            "run": run,
            "round": whole(receipt.round),
            "at": at,
            "receipt": recorded_json(receipt),
            "signature": None if signature is None else signature.signature,
            "verified": verified,
        },
    )
    if added.rowcount == 0:
        return
    sequence = whole(receipt.sequence)
    newer = sequence >= accounts.c.sequence
    connection.execute(
        update(accounts)
        .where(accounts.c.id == account)
        .values(
            receipts=accounts.c.receipts + 1,
            unverified=accounts.c.unverified + int(not verified),
            insecure=accounts.c.insecure + int(not receipt.secure),
            last_at=case((accounts.c.last_at > at, accounts.c.last_at), else_=at),
            newest=case((newer, recorded_json(receipt)), else_=accounts.c.newest),
            sequence=case((newer, sequence), else_=accounts.c.sequence),
        )
    )
    adding = upsert(connection, charges)
    connection.execute(
        adding.on_conflict_do_update(
            index_elements=[charges.c.account_id, charges.c.rate, charges.c.noise_multiplier],
            set_={"steps": charges.c.steps + adding.excluded.steps},
        ),
        {
            "account_id": account,
            "rate": receipt.rate,
            "noise_multiplier": receipt.noise_multiplier,
            "steps": whole(receipt.steps),
        },
    )


def is_signed(receipt: Mapping[str, Any], signature: Signature | None) -> bool:
    """Whether the signature is one of exactly this receipt."""
    if signature is None:
        return False
    try:
        require_signed(signature.public_key, canonical(receipt), signature.signature)
    except (SignatureError, ValueError):
        return False
    return True


def fingerprint_of(public_key: str) -> str:
    """A short name of a key; empty for none.

    >>> fingerprint_of("")
    ''
    """
    return hashlib.sha256(public_key.encode()).hexdigest()[:16] if public_key else ""


def verify_account(connection: Connection, account: int) -> list[str]:
    """Check every stored receipt of an account again; what is wrong, one line a problem, none if it is sound."""
    row = connection.execute(select(accounts).where(accounts.c.id == account)).mappings().one_or_none()
    if row is None:
        raise SettingsError(f"there is no account {account} in this store.")
    problems = []
    last: tuple[int, str] | None = None
    query = select(receipts).where(receipts.c.account_id == account).order_by(receipts.c.sequence)
    for found in connection.execute(query).mappings():
        plain = json.loads(found["receipt"])
        place = f"the receipt of run {found['run']}, round {found['round']}"
        signature = (
            None
            if found["signature"] is None
            else Signature(public_key=row["public_key"], signature=found["signature"])
        )
        if not is_signed(plain, signature):
            problems.append(f"{place} is not signed with the site's key")
        if (plain["sequence"], plain["digest"]) != (found["sequence"], found["digest"]):
            problems.append(f"{place} was changed in the store")
        if last is not None and found["sequence"] == last[0]:
            problems.append(
                f"{place} has the same sequence number as another one: there are two ledgers, or one was reset"
            )
        last = (found["sequence"], found["digest"])
    return problems


def _tell_of_another(connection: Connection, site_id: int, receipt: Receipt, *, at: float) -> None:
    """A known site's first receipt for a dataset, or for a new ledger of one: a budget begins, and somebody should
    know. Called before its account is there."""
    known = set(connection.execute(select(accounts.c.dataset).where(accounts.c.site_id == site_id)).scalars())
    if known:
        kind = "new-ledger" if plain(receipt.dataset) in known else "new-dataset"
        told = {"site": plain(receipt.client), "dataset": plain(receipt.dataset), "budget": receipt.epsilon_allowed}
        append_event(connection, kind, who="coordinator", at=at, run=plain(receipt.run), **told)


def _account(connection: Connection, site_id: int, receipt: Receipt, key: str, *, at: float) -> int:
    query = select(accounts.c.id).where(
        accounts.c.site_id == site_id, accounts.c.dataset == plain(receipt.dataset), accounts.c.public_key == key
    )
    found = connection.execute(query).scalar()
    if found is None:
        new = {
            "site_id": site_id,
            "dataset": plain(receipt.dataset),
            "public_key": key,
            "receipts": 0,
            "unverified": 0,
            "insecure": 0,
            "first_at": at,
            "last_at": at,
            "sequence": 0,
            "newest": recorded_json(receipt),
        }
        _tell_of_another(connection, site_id, receipt, at=at)
        connection.execute(upsert(connection, accounts).on_conflict_do_nothing(), new)
        found = connection.execute(query).scalar_one()
    return int(found)
