"""The JSON API under /api/v1: what the pages show and do, for scripts. Its description is at /api/v1/openapi.json.

Guarantee: whatever is sent, the answer is not an error of the server's own: bad input is 4xx with the reason, and a
database that cannot be reached is 503. Every route asks for a role; what changes something is in the audit log.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError

from fedlora import __version__
from fedlora.plain_yaml import shortened
from fedlora.settings import MOST_PROBLEMS, SettingsError
from server.dashboard.machine.parts import LARGEST, Admin, After, APIError, Filter, Name, Operator, Text, Viewer, known
from server.dashboard.machine.starting import starting_routes
from server.runs.launch import RunLauncher
from server.store.audit import export_events, read_events, verify_events
from server.store.metrics import exposition
from server.store.opening import Store
from server.store.ordering import Verb, place_order
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
from server.store.removing import remove_run
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

SHOWN_CHARS = 200
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}
    for code, text in {
        401: "Not authenticated",
        403: "The role does not allow this",
        404: "Not found",
        409: "Not possible in its current state",
        422: "The request is not valid",
        503: "The store is not reachable",
    }.items()
}


class Whole(BaseModel):
    """A run with its recipe and versions."""

    run: RunRow
    detail: RunDetail


class NewOrder(BaseModel):
    """A command to a run."""

    model_config = ConfigDict(extra="forbid")

    action: Verb = Field(validation_alias=AliasChoices("action", "verb"))
    """`verb` is its former name, read for one version more."""
    site: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00]+$")
    """For exclude and include."""


class Verdict(BaseModel):
    """Whether a chain or a ledger's receipts can be trusted."""

    sound: bool
    problems: list[str]


class CurrentUser(BaseModel):
    """The current user."""

    name: str
    role: Literal["viewer", "operator", "admin"]


def add_api(app: FastAPI, store: Store, pad: RunLauncher | None = None) -> FastAPI:
    """Mount the API and /metrics on the dashboard, behind its gate; returns the API's own application.

    `pad` is where runs can be started; None: nowhere.
    """
    api = FastAPI(title="fedlora", version=__version__, docs_url=None, redoc_url=None, responses=PROBLEMS)
    for router in (reading_routes(store), acting_routes(store), starting_routes(store, pad)):
        api.include_router(router)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(SettingsError, _unusable)
    api.add_exception_handler(SQLAlchemyError, _unreachable)

    @app.get("/metrics", include_in_schema=False)
    def metrics(who: Viewer) -> Response:
        return Response(exposition(store), media_type=PROMETHEUS)

    app.mount("/api/v1", api)
    return api


def reading_routes(store: Store) -> APIRouter:
    """For viewers."""
    routes = APIRouter()

    @routes.get("/me")
    def me(who: Viewer) -> CurrentUser:
        return CurrentUser(name=who.name, role=who.role.value)

    @routes.get("/runs")
    def runs(who: Viewer, active: bool = False, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000) -> list[RunRow]:
        with store.reading() as connection:
            return read_runs(connection, limit=limit, active_only=active)

    @routes.get("/runs/{name}")
    def run(who: Viewer, name: Name) -> Whole:
        with store.reading() as connection:
            found = known(store, name)
            return Whole(run=found, detail=read_detail(connection, found))

    @routes.get("/runs/{name}/rounds")
    def rounds(who: Viewer, name: Name, after: After = 0) -> list[RoundRow]:
        with store.reading() as connection:
            return read_rounds(connection, known(store, name), after=after)

    @routes.get("/runs/{name}/clients")
    def clients(
        who: Viewer,
        name: Name,
        after: After = 0,
        site: Filter = None,
        limit: Annotated[int, Query(ge=1, le=20_000)] = 20_000,
    ) -> list[ClientRoundRow]:
        with store.reading() as connection:
            return read_client_rounds(connection, known(store, name), after=after, site=site, limit=limit)

    @routes.get("/runs/{name}/sites")
    def run_sites(who: Viewer, name: Name) -> list[RunSiteRow]:
        with store.reading() as connection:
            return read_run_sites(connection, known(store, name))

    @routes.get("/runs/{name}/failures")
    def failures(who: Viewer, name: Name) -> list[FailureRow]:
        with store.reading() as connection:
            return read_failures(connection, known(store, name))

    @routes.get("/runs/{name}/orders")
    def orders(who: Viewer, name: Name) -> list[OrderRow]:
        with store.reading() as connection:
            return read_orders(connection, known(store, name))

    @routes.get("/runs/{name}/log")
    def log(who: Viewer, name: Name, lines: Annotated[int, Query(ge=1, le=5000)] = 200) -> list[str]:
        """The last lines of the run's own log; none where its folder is on another machine."""
        return log_tail(known(store, name), lines=lines) or []

    @routes.get("/sites")
    def sites(who: Viewer) -> list[SiteRow]:
        with store.reading() as connection:
            return read_sites(connection)

    @routes.get("/privacy")
    def privacy(who: Viewer) -> list[PrivacyRow]:
        with store.reading() as connection:
            return read_privacy(connection)

    @routes.get("/privacy/sent")
    def sent(who: Viewer, waiting: bool = False) -> list[RunSpentRow]:
        """What every run may have cost every site; `waiting`: only where receipts do not cover what was sent."""
        with store.reading() as connection:
            return read_spent(connection, waiting=waiting)

    @routes.get("/privacy/{site}/{dataset}/receipts")
    def receipts(
        who: Viewer, site: Text, dataset: Text, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
    ) -> list[ReceiptRow]:
        with store.reading() as connection:
            return read_receipts(connection, site=site, dataset=dataset, limit=limit)

    @routes.get("/privacy/accounts/{account}/verify")
    def verify_receipts(who: Viewer, account: Annotated[int, Path(ge=1, le=LARGEST)]) -> Verdict:
        """Check the signature of every receipt of a ledger again."""
        try:
            with store.reading() as connection:
                problems = verify_account(connection, account)
        except SettingsError as problem:
            raise APIError(404, str(problem)) from None
        return Verdict(sound=not problems, problems=problems)

    @routes.get("/events")
    def events(
        who: Viewer,
        kind: Filter = None,
        actor: Filter = None,
        run: Filter = None,
        since: Annotated[float | None, Query(ge=0, le=LARGEST)] = None,
        before: Annotated[int | None, Query(ge=1, le=LARGEST)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> list[EventRow]:
        with store.reading() as connection:
            return read_events(connection, kind=kind, who=actor, run=run, since=since, before=before, limit=limit)

    @routes.get("/events/verify")
    def verify_log(who: Viewer) -> Verdict:
        """Check the audit log's whole chain."""
        with store.reading() as connection:
            problem = verify_events(connection)
        return Verdict(sound=problem is None, problems=[] if problem is None else [problem])

    @routes.get("/events/export", response_class=PlainTextResponse)
    def export_log(who: Viewer) -> Response:
        """The audit log as hash-chained JSON Lines."""
        with store.reading() as connection:
            return PlainTextResponse(export_events(connection))

    return routes


def acting_routes(store: Store) -> APIRouter:
    """For operators and admins."""
    routes = APIRouter()

    @routes.post("/runs/{name}/orders", status_code=201)
    def order(who: Operator, name: Name, new: NewOrder) -> OrderRow:
        """Pause, resume, stop, exclude, include or export: the run's own loop obeys."""
        run = known(store, name)
        if not run.active:
            raise APIError(409, f"{run.name} is {run.state} and would not react. Resume it first.")
        with store.writing() as connection:
            return place_order(connection, run.id, new.action, who=who.name, at=time.time(), argument=new.site)

    @routes.delete("/runs/{name}", status_code=204)
    def remove(who: Admin, name: Name) -> Response:
        """Take a run out of the store; its folder stays, and so do deployed sites' receipts."""
        run = known(store, name)
        if run.active:
            raise APIError(409, f"{run.name} is {run.state}; stop it before it is removed.")
        with store.writing() as connection:
            remove_run(connection, run, who=who.name, at=time.time())
        return Response(status_code=204)

    return routes


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The place and reason of each input error, without the input itself: not every input can be returned as JSON."""
    assert isinstance(error, RequestValidationError)
    found = error.errors()[:MOST_PROBLEMS]
    detail = [
        {
            "loc": [shortened(str(part), SHOWN_CHARS) for part in item["loc"]],
            "msg": shortened(str(item["msg"]), SHOWN_CHARS),
        }
        for item in found
    ]
    return JSONResponse({"detail": detail}, 422)


async def _unusable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _unreachable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"The store is not reachable ({type(error).__name__}); try again."}, 503)
