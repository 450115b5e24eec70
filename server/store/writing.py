"""Writes of the loop: a run's start, its rounds, its end. Every function is part of the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, select, update

from fedlora.privacy.spent import epsilon_max
from fedlora.privacy.unconfirmed import SiteSpent
from server.record.records import ClientRecord, RoundRecord
from server.store.facts import RunFacts
from server.store.figures import columns
from server.store.keys import RunKey, site_ids
from server.store.spending import write_receipts
from server.store.spent import write_spent
from server.store.sums import Said, add_to_run, add_to_sites, recount
from server.store.tables import client_rounds, rounds, runs
from server.store.values import finite, plain, whole


def begin_run(connection: Connection, facts: RunFacts, *, at: float, **process: Any) -> RunKey:
    """A new row, or the row of a run that goes on; its rounds stay."""
    values = {
        "name": facts.name,
        "kind": facts.kind,
        "coordinator": facts.coordinator,
        "folder": facts.folder,
        "strategy": facts.strategy,
        "recipe": json.dumps(facts.recipe),
        "versions": json.dumps(facts.versions),
        "dense_bytes": facts.dense_bytes,
        "rounds_wanted": facts.rounds_wanted,
        "seed": facts.seed,
        "metric": facts.metric.name,
        "larger_is_better": facts.metric.larger_is_better,
        "unit": facts.metric.unit,
        "state": "running",
        "why": None,
        "heard_at": at,
        "ended_at": None,
        **process,
    }
    if facts.trial is not None:
        values |= {"group": facts.trial.group, "method": facts.trial.method, "changed": json.dumps(facts.trial.changed)}
    found = connection.execute(select(runs.c.id).where(runs.c.run == facts.run)).scalar()
    if found is None:
        connection.execute(runs.insert().values(run=facts.run, begun_at=at, **values))
        found = connection.execute(select(runs.c.id).where(runs.c.run == facts.run)).scalar_one()
    else:
        connection.execute(update(runs).where(runs.c.id == found).values(**values))
    return RunKey(int(found), facts.run, facts.kind, facts.dense_bytes or 0, facts.metric)


def set_run(connection: Connection, key: RunKey, **values: Any) -> None:
    """Change columns of a run's row."""
    connection.execute(update(runs).where(runs.c.id == key.id).values(**values))


def forget_rounds_after(connection: Connection, key: RunKey, number: int) -> None:
    """A run that went back to `number` does its later rounds again. What sites have spent stays written."""
    for table in (client_rounds, rounds):
        connection.execute(delete(table).where(table.c.run_id == key.id, table.c.round > number))
    recount(connection, key)


def write_round(
    connection: Connection,
    key: RunKey,
    record: RoundRecord,
    *,
    at: float,
    spent: Mapping[str, SiteSpent] | None = None,
) -> None:
    """One round, whole. Written again it is refused by the database, and nothing is doubled.

    `spent`: what the run may have cost every site at the round's end; without it the round's own receipts count.
    """
    clients = [(plain(client.client), client) for client in record.clients]
    ids = site_ids(connection, key.kind, (name for name, _ in clients))
    row = round_row(key, record, at=at)
    if spent:
        row["epsilon_max"] = finite(epsilon_max(spent))
    connection.execute(rounds.insert().values(**row))
    if clients:
        rows = [
            client_row(key, record.round, position, ids[name], client)
            for position, (name, client) in enumerate(clients)
        ]
        connection.execute(client_rounds.insert(), rows)
        add_to_sites(connection, key, rows, [_said(client) for _, client in clients], at=at)
    add_to_run(connection, key, row)
    if any(client.receipt is not None and not client.receipt.secure for client in record.clients):
        set_run(connection, key, insecure=True)
    write_receipts(connection, key.run, record, ids, at=at)
    write_spent(connection, key, spent or {})


def round_row(key: RunKey, record: RoundRecord, *, at: float) -> dict[str, Any]:
    """Columns of `rounds`."""
    quality = record.evaluation
    received = [client.received for client in record.clients if client.received is not None]
    weights = [whole(one.examples) for one in received]
    losses = [client.train_loss for client in record.clients if client.train_loss is not None]
    spent = [client.receipt.epsilon_run for client in record.clients if client.receipt is not None]
    return {
        "run_id": key.id,
        "round": record.round,
        "finished_at": at,
        "seconds": record.seconds,
        **columns(quality, key.metric),
        "examples": None if quality is None else whole(quality.examples),
        "client_score": finite(mean([one.value(key.metric.name) for one in received], weights)),
        "client_loss": finite(mean([one.loss for one in received], weights)),
        "train_loss": finite(mean(losses, [1] * len(losses))),
        "aggregation_error": finite(record.aggregation_error),
        "base_version": record.base_version,
        "asked": len(record.clients),
        "trained": record.count("trained"),
        "refused": record.count("refused"),
        "failed": record.count("failed"),
        "late": record.count("late"),
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "epsilon_max": finite(max(spent, default=None)),
    }


def mean(values: Sequence[float], weights: Sequence[int]) -> float | None:
    """None where there is nothing to weigh."""
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else None


def client_row(key: RunKey, number: int, position: int, site_id: int, client: ClientRecord) -> dict[str, Any]:
    """Columns of `client_rounds`."""
    return {
        "run_id": key.id,
        "round": number,
        "position": position,
        "site_id": site_id,
        "outcome": client.outcome,
        "code": None if client.code is None else plain(client.code),
        "examples": whole(client.examples),
        "bytes_up": client.bytes_up,
        "bytes_down": client.bytes_down,
        "seconds": finite(client.seconds) or 0.0,
        **columns(client.received, key.metric),
        "train_loss": finite(client.train_loss),
        "epsilon_run": None if client.receipt is None else finite(client.receipt.epsilon_run),
    }


def _said(client: ClientRecord) -> Said:
    resources, machine = client.resources, client.machine
    return Said(
        node=str(client.node),
        resources=None if resources is None else resources.model_dump_json(exclude_none=True),
        machine=None if machine is None else machine.model_dump_json(exclude_none=True),
    )
