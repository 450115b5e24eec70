"""The audit log: who did what, hash-chained as the privacy ledger is, so that no line can be changed or taken out.

Lines cut off the end are found only by who kept a digest from before: export it now and then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, desc, select, text

from fedlora.privacy.chain import GENESIS, line_after, read_chain
from server.store.rows import EventRow
from server.store.tables import events


def append_event(
    connection: Connection, kind: str, *, who: str, at: float, run: str | None = None, **fields: Any
) -> EventRow:
    """Write one line behind the last, as part of the caller's writing transaction: one writer at a time."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE"))
    last = connection.execute(
        select(events.c.sequence, events.c.line).order_by(desc(events.c.sequence)).limit(1)
    ).one_or_none()
    head = GENESIS if last is None else str(json.loads(last.line)["digest"])
    content = {"kind": kind, "who": who, "at": round(at, 3), "run": run, **fields}
    entry, line = line_after(head, 1 if last is None else last.sequence + 1, content)
    connection.execute(
        events.insert().values(
            sequence=entry.sequence, at=content["at"], kind=kind, who=who, run=run, line=line.decode().rstrip("\n")
        )
    )
    return _row(line)


def read_events(
    connection: Connection,
    *,
    kind: str | None = None,
    who: str | None = None,
    run: str | None = None,
    since: float | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[EventRow]:
    """The newest first; `before` is the sequence number at which the page before this one ended."""
    query = select(events.c.line).order_by(desc(events.c.sequence)).limit(limit)
    for column, wanted in ((events.c.kind, kind), (events.c.who, who), (events.c.run, run)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(events.c.at >= since)
    if before is not None:
        query = query.where(events.c.sequence < before)
    return [_row(line) for line in connection.execute(query).scalars()]


def events_after(connection: Connection, sequence: int, *, limit: int = 1000) -> list[EventRow]:
    """What was written after an event, the oldest first."""
    query = select(events.c.line).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(limit)
    return [_row(line) for line in connection.execute(query).scalars()]


def event_kinds(connection: Connection) -> list[str]:
    """Every kind that occurs, for a filter."""
    return list(connection.execute(select(events.c.kind).distinct().order_by(events.c.kind)).scalars())


def export_events(connection: Connection) -> bytes:
    """The whole chain as JSON Lines: what `verify_events` checks, and anybody with SHA-256 can."""
    lines = connection.execute(select(events.c.line).order_by(events.c.sequence)).scalars()
    return "".join(f"{line}\n" for line in lines).encode()


def verify_events(connection: Connection) -> str | None:
    """Why the log cannot be trusted, with the first line that cannot; None if it is sound."""
    chain = read_chain(export_events(connection))
    if chain.problem is not None:
        return chain.problem
    columns = select(events.c.sequence, events.c.at, events.c.kind, events.c.who, events.c.run).order_by(
        events.c.sequence
    )
    for entry, row in zip(chain.entries, connection.execute(columns), strict=True):
        told = (entry.sequence, *(entry.fields[name] for name in ("at", "kind", "who", "run")))
        if tuple(row) != told:
            return f"line {entry.sequence} does not match its columns"
    return None


def _row(line: str | bytes) -> EventRow:
    values: Mapping[str, Any] = json.loads(line)
    bound = ("sequence", "previous", "digest", "kind", "who", "at", "run")
    fields = {name: value for name, value in values.items() if name not in bound}
    return EventRow(
        values["sequence"], values["at"], values["kind"], values["who"], values["run"], fields, values["digest"]
    )
