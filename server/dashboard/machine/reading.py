"""The part of the API that reads, for viewers."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from fedlora.settings import SettingsError
from server.dashboard.machine.parts import LARGEST, After, APIError, Filter, Reading, ReadRun, Text, Viewer, Where
from server.store.audit import export_events, read_events, verify_events
from server.store.choosing import NEWEST_FIRST, chosen
from server.store.privacy import read_privacy, read_receipts
from server.store.privacy_rows import PrivacyRow, ReceiptRow
from server.store.reading import (
    log_tail,
    read_client_rounds,
    read_detail,
    read_failures,
    read_orders,
    read_rounds,
    read_run_sites,
    read_runs,
    read_sites,
)
from server.store.rows import (
    ClientRoundRow,
    EventRow,
    FailureRow,
    OrderRow,
    RoundRow,
    RunDetail,
    RunRow,
    RunSiteRow,
    SiteRow,
)
from server.store.spending import verify_account
from server.store.spent import RunSpentRow, read_spent

routes = APIRouter()


class Whole(BaseModel):
    """A run with its recipe and versions."""

    run: RunRow
    detail: RunDetail


class Verdict(BaseModel):
    """Whether a chain or a ledger's receipts can be trusted."""

    sound: bool
    problems: list[str]


class CurrentUser(BaseModel):
    """The current user."""

    name: str
    role: Literal["viewer", "operator", "admin"]


@routes.get("/me")
def me(who: Viewer) -> CurrentUser:
    return CurrentUser(name=who.name, role=who.role.value)


@routes.get("/runs")
def runs(
    who: Viewer,
    connection: Reading,
    active: bool = False,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    where: Where = (),
    sort: Annotated[str, Query(max_length=20, description="As of `fedlora runs list --sort`.")] = NEWEST_FIRST,
) -> list[RunRow]:
    return read_runs(connection, limit=limit, active_only=active, choice=chosen(where, sort))


@routes.get("/runs/{name}")
def run(who: Viewer, connection: Reading, run: ReadRun) -> Whole:
    return Whole(run=run, detail=read_detail(connection, run))


@routes.get("/runs/{name}/rounds")
def rounds(who: Viewer, connection: Reading, run: ReadRun, after: After = 0) -> list[RoundRow]:
    return read_rounds(connection, run, after=after)


@routes.get("/runs/{name}/clients")
def clients(
    who: Viewer,
    connection: Reading,
    run: ReadRun,
    after: After = 0,
    site: Filter = None,
    limit: Annotated[int, Query(ge=1, le=20_000)] = 20_000,
) -> list[ClientRoundRow]:
    return read_client_rounds(connection, run, after=after, site=site, limit=limit)


@routes.get("/runs/{name}/sites")
def run_sites(who: Viewer, connection: Reading, run: ReadRun) -> list[RunSiteRow]:
    return read_run_sites(connection, run)


@routes.get("/runs/{name}/failures")
def failures(who: Viewer, connection: Reading, run: ReadRun) -> list[FailureRow]:
    return read_failures(connection, run)


@routes.get("/runs/{name}/orders")
def orders(who: Viewer, connection: Reading, run: ReadRun) -> list[OrderRow]:
    return read_orders(connection, run)


@routes.get("/runs/{name}/log")
def log(who: Viewer, run: ReadRun, lines: Annotated[int, Query(ge=1, le=5000)] = 200) -> list[str]:
    """The last lines of the run's own log; none where its folder is on another machine."""
    return log_tail(run, lines=lines) or []


@routes.get("/sites")
def sites(who: Viewer, connection: Reading) -> list[SiteRow]:
    return read_sites(connection)


@routes.get("/privacy")
def privacy(who: Viewer, connection: Reading) -> list[PrivacyRow]:
    return read_privacy(connection)


@routes.get("/privacy/sent")
def sent(who: Viewer, connection: Reading, waiting: bool = False) -> list[RunSpentRow]:
    """What every run may have cost every site; `waiting`: only where receipts do not cover what was sent."""
    return read_spent(connection, waiting=waiting)


@routes.get("/privacy/{site}/{dataset}/receipts")
def receipts(
    who: Viewer, connection: Reading, site: Text, dataset: Text, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[ReceiptRow]:
    return read_receipts(connection, site=site, dataset=dataset, limit=limit)


@routes.get("/privacy/accounts/{account}/verify")
def verify_receipts(who: Viewer, connection: Reading, account: Annotated[int, Path(ge=1, le=LARGEST)]) -> Verdict:
    """Check the signature of every receipt of a ledger again."""
    try:
        problems = verify_account(connection, account)
    except SettingsError as problem:
        raise APIError(404, str(problem)) from None
    return Verdict(sound=not problems, problems=problems)


@routes.get("/events")
def events(
    who: Viewer,
    connection: Reading,
    kind: Filter = None,
    actor: Filter = None,
    run: Filter = None,
    since: Annotated[float | None, Query(ge=0, le=LARGEST)] = None,
    before: Annotated[int | None, Query(ge=1, le=LARGEST)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[EventRow]:
    return read_events(connection, kind=kind, who=actor, run=run, since=since, before=before, limit=limit)


@routes.get("/events/verify")
def verify_log(who: Viewer, connection: Reading) -> Verdict:
    """Check the audit log's whole chain."""
    problem = verify_events(connection)
    return Verdict(sound=problem is None, problems=[] if problem is None else [problem])


@routes.get("/events/export", response_class=PlainTextResponse)
def export_log(who: Viewer, connection: Reading) -> Response:
    """The audit log as hash-chained JSON Lines."""
    return PlainTextResponse(export_events(connection))
