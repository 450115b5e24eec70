"""The most that every run may have cost every site, including tasks without a receipt: written by the loop, read by the
pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, desc, func, or_, select, update

from fedlora.privacy.unconfirmed import SiteSpent
from server.store.keys import RunKey, site_ids, upsert
from server.store.rows import Kind, RunRow
from server.store.tables import accounts, receipts, run_spent, runs, sites
from server.store.values import plain

LARGEST = 1e300
"""Stored instead of an infinite ε, which a numeric column cannot store."""


@dataclass(frozen=True)
class RunSpentRow:
    """One site in one private run."""

    run: str
    name: str
    site: str
    kind: Kind
    epsilon: float
    """Upper bound: a task that was sent and has no receipt counts as charged."""
    confirmed: float
    """By the site's newest receipt of the run."""
    unconfirmed: int
    """Tasks that were sent and have no receipt."""


def write_spent(connection: Connection, key: RunKey, spent: Mapping[str, SiteSpent]) -> None:
    """What the run may have cost every site by now, in place of what was said before; nothing for a run without."""
    if not spent:
        return
    ids = site_ids(connection, key.kind, map(plain, spent))
    adding = upsert(connection, run_spent)
    changes = {name: adding.excluded[name] for name in ("epsilon", "confirmed", "unconfirmed")}
    connection.execute(
        adding.on_conflict_do_update(index_elements=[run_spent.c.run_id, run_spent.c.site_id], set_=changes),
        [
            {
                "run_id": key.id,
                "site_id": ids[plain(name)],
                "epsilon": min(site.epsilon, LARGEST),
                "confirmed": min(site.confirmed, LARGEST),
                "unconfirmed": site.unconfirmed,
            }
            for name, site in spent.items()
        ],
    )
    worst = max(site.epsilon for site in spent.values())
    changed: dict[str, Any] = {"epsilon_max": min(worst, LARGEST)}
    if not all(site.secure for site in spent.values()):
        changed["insecure"] = True
    connection.execute(update(runs).where(runs.c.id == key.id).values(**changed))


def read_spent(
    connection: Connection, *, run: RunRow | None = None, waiting: bool = False, limit: int = 1000
) -> list[RunSpentRow]:
    """Of one run or of all, the newest run first, in it the largest ε; `waiting`: only where a receipt is missing."""
    query = (
        select(run_spent, runs.c.run, runs.c.name, sites.c.name.label("site"), sites.c.kind)
        .join(runs, runs.c.id == run_spent.c.run_id)
        .join(sites, sites.c.id == run_spent.c.site_id)
        .order_by(desc(runs.c.begun_at), desc(runs.c.id), desc(run_spent.c.epsilon), sites.c.name)
        .limit(limit)
    )
    if run is not None:
        query = query.where(runs.c.run == run.run)
    if waiting:
        query = query.where(run_spent.c.unconfirmed > 0)
    names = RunSpentRow.__dataclass_fields__
    return [RunSpentRow(**{name: row[name] for name in names}) for row in connection.execute(query).mappings()]


def unconfirmed_by_account(connection: Connection) -> dict[int, int]:
    """Tasks that may have been charged to a ledger after its newest receipt.

    Those of a run that had ended when that receipt came are covered by it: it counts everything before it. A
    simulation's ledgers are one run's alone.
    """
    newest = and_(receipts.c.account_id == accounts.c.id, receipts.c.sequence == accounts.c.sequence)
    later = or_(runs.c.ended_at.is_(None), runs.c.ended_at >= accounts.c.last_at)
    query = (
        select(accounts.c.id, func.sum(run_spent.c.unconfirmed))
        .join(run_spent, run_spent.c.site_id == accounts.c.site_id)
        .join(runs, runs.c.id == run_spent.c.run_id)
        .join(receipts, newest)
        .where(run_spent.c.unconfirmed > 0)
        .where(or_(runs.c.run == receipts.c.run, and_(runs.c.kind == "deployment", later)))
        .group_by(accounts.c.id)
    )
    return {int(account): int(count) for account, count in connection.execute(query)}
