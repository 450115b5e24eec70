"""Sums over rounds, kept as rounds are written so that a page over hundreds of runs reads hundreds of rows.

`recount` computes them from the rows instead: the slow clear twin, and what puts them right when rounds are taken back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sqlalchemy import Connection, case, delete, func, select, update

from server.store.keys import RunKey, upsert
from server.store.tables import client_rounds, failures, rounds, run_sites, run_spent, runs

REMEMBERS = 0.7
"""Weight of earlier rounds in the mean duration of a round."""


class Said(TypedDict):
    """Values of a round that `client_rounds` does not store."""

    node: str
    resources: str | None
    """What the site declared that it can carry, as JSON."""
    machine: str | None
    """Versions and device at the site, as JSON."""


def add_to_run(connection: Connection, key: RunKey, row: Mapping[Any, Any]) -> None:
    """Sums and newest values of `runs`, from a row of `rounds`; what this round did not measure stays as it was."""
    kept = {name: row[name] for name in ("score", "loss", "metrics") if row[name] is not None}
    for ours, theirs, largest in (
        ("best_score", "score", key.metric.larger_is_better),
        ("aggregation_error_max", "aggregation_error", True),
        ("epsilon_max", "epsilon_max", True),
    ):
        if row[theirs] is not None:
            old = func.coalesce(runs.c[ours], row[theirs])
            stays = old > row[theirs] if largest else old < row[theirs]
            kept[ours] = case((stays, old), else_=row[theirs])
    seconds = row["seconds"]
    connection.execute(
        update(runs)
        .where(runs.c.id == key.id)
        .values(
            heard_at=row["finished_at"],
            round_begun_at=None,
            rounds=row["round"],
            seconds=runs.c.seconds + seconds,
            recent_seconds=REMEMBERS * func.coalesce(runs.c.recent_seconds, seconds) + (1 - REMEMBERS) * seconds,
            bytes_up=runs.c.bytes_up + row["bytes_up"],
            bytes_down=runs.c.bytes_down + row["bytes_down"],
            dense_up=runs.c.dense_up + key.dense_bytes * row["trained"],
            dense_down=runs.c.dense_down + key.dense_bytes * row["asked"],
            **kept,
        )
    )


ADDED = ("asked", "trained", "refused", "failed", "late", "bytes_up", "bytes_down", "seconds")
NEWEST = ("node", "last_round", "last_asked_at", "last_outcome", "last_code")
KEPT = ("last_heard_at", "last_seconds", "examples", "score", "loss", "metrics", "resources", "machine")
"""Newest values that a round in which the site did not answer, or did not say, leaves as they were."""


def add_to_sites(
    connection: Connection, key: RunKey, rows: Sequence[Mapping[Any, Any]], said: Sequence[Said], *, at: float
) -> None:
    """Sums and newest values of `run_sites` and `failures`, for one round's rows and what else was said in it."""
    table = run_sites
    new = [_site_row(row, site, at=at) for row, site in zip(rows, said, strict=True)]
    statement = upsert(connection, table)
    other = statement.excluded
    changes = {name: table.c[name] + other[name] for name in ADDED} | {name: other[name] for name in NEWEST}
    changes |= {name: func.coalesce(other[name], table.c[name]) for name in KEPT}
    changes["misses"] = case((other.trained > 0, 0), else_=table.c.misses + 1)
    connection.execute(
        statement.on_conflict_do_update(index_elements=[table.c.run_id, table.c.site_id], set_=changes), new
    )
    missing = [
        {
            "run_id": row["run_id"],
            "site_id": row["site_id"],
            "outcome": row["outcome"],
            "code": row["code"] or "",
            "count": 1,
            "last_round": row["round"],
            "last_at": at,
        }
        for row in rows
        if row["outcome"] != "trained"
    ]
    if missing:
        adding = upsert(connection, failures)
        connection.execute(
            adding.on_conflict_do_update(
                index_elements=[failures.c.run_id, failures.c.site_id, failures.c.outcome, failures.c.code],
                set_={
                    "count": failures.c["count"] + 1,
                    "last_round": adding.excluded.last_round,
                    "last_at": adding.excluded.last_at,
                },
            ),
            missing,
        )


def _site_row(row: Mapping[Any, Any], said: Said, *, at: float) -> dict[str, Any]:
    """What one client's row of a round adds to `run_sites`."""
    trained, late = row["outcome"] == "trained", row["outcome"] == "late"
    return {
        "run_id": row["run_id"],
        "site_id": row["site_id"],
        **said,
        "asked": 1,
        **{outcome: int(row["outcome"] == outcome) for outcome in ("trained", "refused", "failed", "late")},
        "misses": 0 if trained else 1,
        "bytes_up": row["bytes_up"],
        "bytes_down": row["bytes_down"],
        "seconds": row["seconds"] if trained else 0.0,
        "last_round": row["round"],
        "last_asked_at": at,
        "last_heard_at": None if late else at,
        "last_seconds": row["seconds"] if trained else None,
        "last_outcome": row["outcome"],
        "last_code": row["code"],
        "examples": row["examples"] if trained else None,
        "score": row["score"],
        "loss": row["loss"],
        "metrics": row["metrics"],
    }


def recount(connection: Connection, key: RunKey) -> None:
    """The slow clear twin: every sum of this run again from its rounds. Nodes and declarations are kept."""
    columns = [run_sites.c[name] for name in ("site_id", "node", "resources", "machine")]
    told = select(*columns).where(run_sites.c.run_id == key.id)
    known = {
        row.site_id: Said(node=row.node, resources=row.resources, machine=row.machine)
        for row in connection.execute(told)
    }
    unknown = Said(node="", resources=None, machine=None)
    for table in (run_sites, failures):
        connection.execute(delete(table).where(table.c.run_id == key.id))
    nothing = dict.fromkeys(
        ("recent_seconds", "score", "best_score", "loss", "metrics", "aggregation_error_max", "epsilon_max")
    )
    zero = dict.fromkeys(("rounds", "seconds", "bytes_up", "bytes_down", "dense_up", "dense_down"), 0)
    connection.execute(update(runs).where(runs.c.id == key.id).values(**nothing, **zero))
    by_round: dict[int, list[Mapping[Any, Any]]] = {}
    query = select(client_rounds).where(client_rounds.c.run_id == key.id).order_by(client_rounds.c.position)
    for client in connection.execute(query).mappings():
        by_round.setdefault(client["round"], []).append(client)
    for row in connection.execute(select(rounds).where(rounds.c.run_id == key.id).order_by(rounds.c.round)).mappings():
        add_to_run(connection, key, row)
        clients = by_round.get(row["round"], [])
        if clients:
            said = [known.get(client["site_id"], unknown) for client in clients]
            add_to_sites(connection, key, clients, said, at=row["finished_at"])
    worst = connection.execute(select(func.max(run_spent.c.epsilon)).where(run_spent.c.run_id == key.id)).scalar()
    if worst is not None:  # what was sent in rounds that were taken back has been spent all the same
        connection.execute(update(runs).where(runs.c.id == key.id).values(epsilon_max=worst))
