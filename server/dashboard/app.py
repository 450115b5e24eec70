"""The dashboard as an ASGI application: login, machine interface and pages behind one gate."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from fedlora import __version__
from server.dashboard.doors.gate import Auth, AuthMiddleware
from server.dashboard.doors.headers import SecurityHeaders
from server.dashboard.doors.login import login_routes

ASSETS = Path(__file__).parent / "assets"


def create_app(doors: Auth) -> FastAPI:
    """Everything that is served. Middleware is listed from the inside out: the gate stands before every route."""
    app = FastAPI(title="fedlora", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.mount("/assets", StaticFiles(directory=ASSETS))
    app.include_router(login_routes(doors))

    @app.get("/healthz", include_in_schema=False)
    def healthy() -> dict[str, str]:
        return {"status": "ok"}

    app.add_middleware(AuthMiddleware, doors=doors)
    app.add_middleware(SecurityHeaders, tls=doors.tls)
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    return app
