"""Taking a run out of the store. Its folder stays, and so does what deployed sites have spent in it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, exists, select

from fedlora.settings import SettingsError
from server.store.audit import append_event
from server.store.rows import RunRow
from server.store.tables import accounts, client_rounds, failures, orders, receipts, rounds, run_sites, run_spent, runs


def remove_run(connection: Connection, run: RunRow, *, who: str, at: float) -> None:
    """SettingsError while the run is at work. A simulation's sites were made for it: their ledgers go with it."""
    if run.active:
        raise SettingsError(f"{run.name} is {run.state}; stop it before it is removed.")
    for table in (client_rounds, rounds, run_sites, run_spent, failures, orders):
        connection.execute(delete(table).where(table.c.run_id == run.id))
    connection.execute(delete(runs).where(runs.c.id == run.id))
    if run.kind == "simulation":
        touched = list(
            connection.execute(select(receipts.c.account_id).where(receipts.c.run == run.run).distinct()).scalars()
        )
        connection.execute(delete(receipts).where(receipts.c.run == run.run))
        empty = ~exists().where(receipts.c.account_id == accounts.c.id)
        connection.execute(delete(accounts).where(accounts.c.id.in_(touched), empty))
    append_event(connection, "run-removed", who=who, at=at, run=run.run, name=run.name, rounds=run.rounds)
