"""Queries for pages, the API and commands. Every function takes a connection and returns plain values.

Nothing here adds up rounds: the sums are in the rows (`sums.py`).
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, desc, func, select

from fedlora.processes.living import born
from fedlora.settings import SettingsError
from server.runs.submissions import read_submission
from server.store.choosing import ALL, Choice, has, narrowed
from server.store.figures import former, metrics_in
from server.store.former import RENAMED
from server.store.ordering import order_row
from server.store.rows import (
    ACTIVE,
    ClientRoundRow,
    FailureRow,
    OrderRow,
    RoundRow,
    RunDetail,
    RunRow,
    RunSiteRow,
    SiteRow,
    State,
    WaitingRow,
)
from server.store.tables import client_rounds, failures, orders, rounds, run_sites, runs, sites

SILENT_S = 600.0
"""Seconds without a sign of life after which a run on another machine is `lost`."""

TAIL_BYTES = 1 << 18

AS_WRITTEN = (
    "id", "run", "name", "group", "method", "seed", "kind", "coordinator", "folder", "strategy", "ended_at", "rounds",
    "seconds", "asked", "answered", "metric", "larger_is_better", "unit", "score", "best_score", "loss",
    "aggregation_error_max", "bytes_up", "bytes_down", "epsilon_max", "insecure",
)  # fmt: skip
"""Columns of a run that are shown as they are."""


def read_runs(
    connection: Connection, *, limit: int = 1000, active_only: bool = False, choice: Choice = ALL
) -> list[RunRow]:
    """The newest first, or as chosen. A run that says it is at work and whose process is gone is shown as `died`."""
    query = narrowed(select(runs), choice)
    if not choice.by_hand:
        query = query.limit(limit)
    if active_only:
        query = query.where(runs.c.state.in_(ACTIVE))
    now = time.time()
    rows = ((_run(row, now), row.recipe) for row in connection.execute(query))
    found = (run for run, recipe in rows if (run.active or not active_only) and has(run, recipe, choice))
    return list(islice(found, limit))


def find_run(connection: Connection, name: str) -> RunRow:
    """By its id, the beginning of its id, or its name (the newest of that name). SettingsError if there is none."""
    exact = connection.execute(select(runs).where(runs.c.run == name)).one_or_none()
    named = select(runs).where(runs.c.name == name).order_by(desc(runs.c.begun_at), desc(runs.c.id)).limit(1)
    row = exact or connection.execute(named).one_or_none()
    if row is None and len(name) >= 4:
        begins = runs.c.run.startswith(name, autoescape=True)
        several = connection.execute(select(runs).where(begins).limit(2)).all()
        row = several[0] if len(several) == 1 else None
    if row is None:
        newest = connection.execute(select(runs.c.name).order_by(desc(runs.c.begun_at)).limit(5)).scalars()
        known = ", ".join(dict.fromkeys(newest)) or "none yet"
        raise SettingsError(f"there is no run {name!r} in this store; the newest: {known}.")
    return _run(row, time.time())


def read_detail(connection: Connection, run: RunRow) -> RunDetail:
    """Recipe and versions."""
    row = connection.execute(
        select(runs.c.recipe, runs.c.versions, runs.c.dense_bytes).where(runs.c.id == run.id)
    ).one()
    return RunDetail(json.loads(row.recipe), json.loads(row.versions), row.dense_bytes)


def read_rounds(connection: Connection, run: RunRow, *, after: int = 0) -> list[RoundRow]:
    """In order; only those after round `after`, for whoever has seen the others."""
    columns = [column for column in rounds.c if column.name != "run_id"]
    query = select(*columns).where(rounds.c.run_id == run.id, rounds.c.round > after).order_by(rounds.c.round)
    return [
        RoundRow(
            **{**row, "metrics": metrics_in(row, run.metric)},
            **former(run.metric, accuracy=row["score"], client_accuracy=row["client_score"]),
        )
        for row in connection.execute(query).mappings()
    ]


def read_client_rounds(
    connection: Connection, run: RunRow, *, after: int = 0, site: str | None = None, limit: int = 20_000
) -> list[ClientRoundRow]:
    """The timelines, round by round; the newest `limit` rows."""
    columns = [column for column in client_rounds.c if column.name not in ("run_id", "position", "site_id")]
    query = (
        select(sites.c.name.label("site"), *columns)
        .join(sites, sites.c.id == client_rounds.c.site_id)
        .where(client_rounds.c.run_id == run.id, client_rounds.c.round > after)
        .order_by(desc(client_rounds.c.round), desc(client_rounds.c.position))
        .limit(limit)
    )
    if site is not None:
        query = query.where(sites.c.name == site)
    found = [
        ClientRoundRow(**{**row, "metrics": metrics_in(row, run.metric)}, **former(run.metric, accuracy=row["score"]))
        for row in connection.execute(query).mappings()
    ]
    return found[::-1]


def read_run_sites(connection: Connection, run: RunRow) -> list[RunSiteRow]:
    """Every site that was asked in this run, by name."""
    query = (
        select(sites.c.name.label("site"), run_sites)
        .join(sites, sites.c.id == run_sites.c.site_id)
        .where(run_sites.c.run_id == run.id)
        .order_by(sites.c.name)
    )
    left_out = ("run_id", "site_id", "seconds", "metrics", "resources", "machine", "last_asked_at")
    return [
        RunSiteRow(
            **{RENAMED.get(name, name): value for name, value in row.items() if name not in left_out},
            mean_seconds=row["seconds"] / row["trained"] if row["trained"] else None,
            metrics=metrics_in(row, run.metric),
            resources=_json(row["resources"]),
            machine=_json(row["machine"]),
            **former(run.metric, accuracy=row["score"]),
        )
        for row in connection.execute(query).mappings()
    ]


def read_failures(connection: Connection, run: RunRow) -> list[FailureRow]:
    """Why sites did not train, the most frequent first."""
    columns = [column for column in failures.c if column.name not in ("run_id", "site_id")]
    query = (
        select(sites.c.name.label("site"), *columns)
        .join(sites, sites.c.id == failures.c.site_id)
        .where(failures.c.run_id == run.id)
        .order_by(desc(failures.c["count"]), sites.c.name)
    )
    return [FailureRow(**row) for row in connection.execute(query).mappings()]


def read_sites(connection: Connection) -> list[SiteRow]:
    """Every site over all runs, by name."""
    added = ("asked", "trained", "refused", "failed", "late", "bytes_up", "bytes_down", "seconds")
    sums = (
        select(
            run_sites.c.site_id,
            func.count().label("runs"),
            *(func.sum(run_sites.c[name]).label(name) for name in added),
            func.max(run_sites.c.last_heard_at).label("last_heard_at"),
            func.max(run_sites.c.last_asked_at).label("last_asked_at"),
        )
        .group_by(run_sites.c.site_id)
        .subquery()
    )
    newest: dict[int, Any] = {}
    told: dict[str, dict[int, str]] = {"resources": {}, "machine": {}}
    columns = ("site_id", "last_outcome", "last_code", "misses", *told)
    asked = (
        select(*(run_sites.c[name] for name in columns), runs.c.name.label("last_run"))
        .join(runs, runs.c.id == run_sites.c.run_id)
        .order_by(run_sites.c.last_asked_at)
    )
    for row in connection.execute(asked):
        newest[row.site_id] = row
        for name, known in told.items():
            if row._mapping[name] is not None:
                known[row.site_id] = row._mapping[name]
    query = (
        select(sites.c.name, sites.c.kind, sites.c.missing_since, sums)
        .join(sums, sums.c.site_id == sites.c.id)
        .order_by(sites.c.kind, sites.c.name)
    )
    return [_site(row, newest[row["site_id"]], told) for row in connection.execute(query).mappings()]


def read_orders(connection: Connection, run: RunRow) -> list[OrderRow]:
    """All commands to a run, newest first."""
    columns = [column for column in orders.c if column.name != "run_id"]
    query = select(*columns).where(orders.c.run_id == run.id).order_by(desc(orders.c.id))
    return [order_row(row) for row in connection.execute(query).mappings()]


def log_tail(run: RunRow, *, lines: int = 200) -> list[str] | None:
    """The last lines of the run's own log; None where it has none, or its folder is on another machine."""
    try:
        with (Path(run.folder) / "run.log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return None


def verdict_of(run: RunRow) -> tuple[str | None, tuple[str, ...]]:
    """How a run that has ended stands against guessing, and what its summary says of it in sentences; (None, ()) where
    it has no summary, or its folder is on another machine."""
    if run.active:
        return None, ()
    try:
        found = json.loads((Path(run.folder) / "summary.json").read_text(encoding="utf-8"))
        return found["standing"], tuple(map(str, found["verdict"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None, ()


def _run(row: Any, now: float) -> RunRow:
    state = _state(row, now)
    left = row.rounds_wanted - row.rounds
    eta = round(now + left * row.recent_seconds, -1) if state == "running" and row.recent_seconds is not None else None
    waits = state == "waiting" and row.waits_until is not None
    known = row.dense_bytes is not None
    return RunRow(
        **{name: row._mapping[name] for name in AS_WRITTEN},
        state=state,
        reason=row.why,
        started_at=row.begun_at,
        last_seen_at=row.heard_at,
        total_rounds=row.rounds_wanted,
        round_seconds=row.recent_seconds,
        eta_at=eta,
        round_started_at=row.round_begun_at,
        waiting=WaitingRow(row.connected, row.needed, row.waits_until) if waits else None,
        metrics=metrics_in(row._mapping, row.metric),
        dense_up=row.dense_up if known else None,
        dense_down=row.dense_down if known else None,
        changed=_json(row.changed),
        **former(row.metric, accuracy=row.score, best_accuracy=row.best_score),
    )


def _state(row: Any, now: float) -> State:
    state: State = row.state
    if state not in ACTIVE:
        return state
    if row.host == socket.gethostname():
        alive = row.pid is not None and born(row.pid) == row.born
        return state if alive else "stopped" if _was_stopped(row) else "died"
    return state if now - row.heard_at < SILENT_S else "lost"


def _was_stopped(row: Any) -> bool:
    """Whether a deployed run's process is gone because somebody stopped it (`fedlora server stop`)."""
    folder = Path(row.folder)
    try:
        return row.kind == "deployment" and read_submission(folder).wanted == "stopped"
    except (OSError, ValueError):
        return False


def _site(row: Mapping[Any, Any], newest: Any, told: Mapping[str, Mapping[int, str]]) -> SiteRow:
    return SiteRow(
        site=row["name"],
        kind=row["kind"],
        runs=row["runs"],
        **{
            name: int(row[name]) for name in ("asked", "trained", "refused", "failed", "late", "bytes_up", "bytes_down")
        },
        mean_seconds=row["seconds"] / int(row["trained"]) if row["trained"] else None,
        last_asked_at=row["last_asked_at"],
        last_seen_at=row["last_heard_at"],
        last_run=newest.last_run,
        last_outcome=newest.last_outcome,
        last_code=newest.last_code,
        missed_in_a_row=newest.misses,
        missing_since=row["missing_since"],
        resources=_json(told["resources"].get(row["site_id"])),
        machine=_json(told["machine"].get(row["site_id"])),
    )


def _json(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else dict(json.loads(text))
