"""Keys of rows: of a run, and of sites."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from fedlora.tasks.metric import Metric
from server.store.rows import Kind
from server.store.tables import sites


@dataclass(frozen=True)
class RunKey:
    """How a run is found again in the store."""

    id: int
    run: str
    kind: Kind
    dense_bytes: int
    metric: Metric


def upsert(connection: Connection, table: Any) -> Any:
    """INSERT that can say what happens on a conflict; both databases spell it alike."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def site_ids(connection: Connection, kind: Kind, names: Iterable[str]) -> dict[str, int]:
    """The row of every site, new ones included."""
    wanted = sorted(set(names))
    query = select(sites.c.name, sites.c.id).where(sites.c.kind == kind, sites.c.name.in_(wanted))
    found = {name: int(identifier) for name, identifier in connection.execute(query)}
    new = [name for name in wanted if name not in found]
    if new:
        connection.execute(
            upsert(connection, sites).on_conflict_do_nothing(), [{"kind": kind, "name": name} for name in new]
        )
        found |= {name: int(identifier) for name, identifier in connection.execute(query)}
    return found
