"""The JSON API under /api/v1: what the pages show and do, for scripts. Its description is at /api/v1/openapi.json.

Guarantee: whatever is sent, the answer is not an error of the server's own: bad input is 4xx with the reason, and a
database that cannot be reached is 503. Every route asks for a role; what changes something is in the audit log.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError

from fedlora import __version__
from fedlora.plain_yaml import shortened
from fedlora.settings import MOST_PROBLEMS, SettingsError
from server.dashboard.machine import acting, reading
from server.dashboard.machine.parts import Viewer
from server.runs.launch import RunLauncher
from server.store.metrics import exposition
from server.store.opening import Store

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


def add_api(app: FastAPI, store: Store, pad: RunLauncher | None = None) -> FastAPI:
    """Mount the API and /metrics on the dashboard, behind its gate; returns the API's own application.

    `pad` is where runs can be started; None: nowhere.
    """
    api = FastAPI(title="fedlora", version=__version__, docs_url=None, redoc_url=None, responses=PROBLEMS)
    api.state.store, api.state.pad = store, pad
    api.include_router(reading.routes)
    api.include_router(acting.routes)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(SettingsError, _unusable)
    api.add_exception_handler(SQLAlchemyError, _unreachable)

    @app.get("/metrics", include_in_schema=False)
    def metrics(who: Viewer) -> Response:
        return Response(exposition(store), media_type=PROMETHEUS)

    app.mount("/api/v1", api)
    return api


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
