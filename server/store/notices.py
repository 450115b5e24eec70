"""Notices: a budget nearly spent, a receipt refused, a site missing or back.

They are events of the audit log; webhooks send them on (`server/deployment/notify.py`). Each is said once.
"""

from __future__ import annotations

import math
from collections.abc import Container

from sqlalchemy import Connection, select, update

from server.record.records import BAD_RECEIPT, RoundRecord
from server.store.audit import append_event, read_events
from server.store.keys import RunKey
from server.store.privacy import read_privacy
from server.store.privacy_rows import PrivacyRow
from server.store.rows import EventRow
from server.store.tables import accounts, run_sites, sites
from server.store.values import plain

NEARLY = 0.8
"""Share of a site's budget above which a notice says that it is nearly spent."""

MISSES = 3
"""Number of rounds in a row without an answer or a connection after which a site counts as missing."""


def write_notices(
    connection: Connection,
    key: RunKey,
    record: RoundRecord,
    *,
    fraction: float,
    at: float,
    excluded: Container[str] = frozenset(),
) -> None:
    """After a round, in its transaction. `fraction`: of the connected clients that a round asks; `excluded`: sites that
    nobody asks, which are not missed."""
    asked = {plain(client.client) for client in record.clients}
    for row in read_privacy(connection, patience_s=0.0):
        if row.kind == key.kind and row.site in asked and row.at_most >= NEARLY * row.budget:
            _warn(connection, key, row, at=at)
    _refused(connection, key, record, at=at)
    _missing(connection, key, record, rounds=math.ceil(MISSES / fraction), excluded=excluded, at=at)


def _warn(connection: Connection, key: RunKey, row: PrivacyRow, *, at: float) -> None:
    """A notice when a budget is nearly spent, by the figure that the page shows: unconfirmed tasks are included."""
    fresh = connection.execute(
        update(accounts).where(accounts.c.id == row.account, ~accounts.c.warned).values(warned=True)
    )
    if fresh.rowcount:
        append_event(
            connection,
            "budget-nearly-spent",
            who="coordinator",
            at=at,
            run=key.run,
            site=row.site,
            dataset=row.dataset,
            epsilon=row.at_most,
            budget=row.budget,
            delta=row.delta,
        )


def _refused(connection: Connection, key: RunKey, record: RoundRecord, *, at: float) -> None:
    """A receipt that was refused, with the reason: once for each reason of a site in a run."""
    told = {(event.fields.get("site"), event.fields.get("why")) for event in _told(connection, key)}
    for client in record.clients:
        said = (plain(client.client), plain(client.why or ""))
        if client.code == BAD_RECEIPT and said not in told:
            append_event(
                connection, "receipt-refused", who="coordinator", at=at, run=key.run, site=said[0], why=said[1]
            )


def _told(connection: Connection, key: RunKey) -> list[EventRow]:
    return read_events(connection, kind="receipt-refused", run=key.run, limit=1000)


def _missing(
    connection: Connection, key: RunKey, record: RoundRecord, *, rounds: int, excluded: Container[str], at: float
) -> None:
    """A site that was asked and is silent, or was asked once and is not connected any more."""
    query = (
        select(sites.c.id, sites.c.name, sites.c.missing_since, run_sites)
        .join(run_sites, run_sites.c.site_id == sites.c.id)
        .where(run_sites.c.run_id == key.id)
    )
    for row in connection.execute(query).mappings():
        silent = row["misses"] >= MISSES or record.round - row["last_round"] >= rounds
        if row["name"] in excluded or silent == (row["missing_since"] is not None):
            continue
        if not silent and (row["last_round"] != record.round or row["misses"]):
            continue  # not heard yet
        connection.execute(update(sites).where(sites.c.id == row["id"]).values(missing_since=at if silent else None))
        append_event(
            connection,
            "site-missing" if silent else "site-back",
            who="coordinator",
            at=at,
            run=key.run,
            site=row["name"],
            round=record.round,
            outcome=row["last_outcome"],
            code=row["last_code"],
        )
