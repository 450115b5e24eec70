"""The pages' addresses."""

from __future__ import annotations

from pathlib import Path

import nicegui
from fastapi import FastAPI, Request
from jinja2 import DictLoader
from nicegui import ui
from nicegui.client import templates

from server.dashboard.app import ASSETS
from server.dashboard.pages import events as page_events
from server.dashboard.pages import privacy as page_privacy
from server.dashboard.pages import run as page_run
from server.dashboard.pages import runs as page_runs
from server.dashboard.pages import sites as page_sites
from server.dashboard.pages import start as page_start
from server.dashboard.state import AppState

SLOWEST_S = 30.0
"""Longest wait for the database before a page shows an error, in seconds."""

AWAY_S = 120.0
"""How long a page without its websocket stays alive, in seconds; after that its buttons do nothing. A browser on a busy
machine can be silent for more than half a minute."""


def add_pages(app: FastAPI, board: AppState) -> None:
    """Every page under its address; they stand behind the gate like all else."""

    async def runs(request: Request) -> None:
        await page_runs.show(board, request)

    async def run(request: Request, name: str) -> None:
        await page_run.show(board, request, name)

    async def privacy(request: Request) -> None:
        await page_privacy.show(board, request)

    async def sites(request: Request) -> None:
        await page_sites.show(board, request)

    async def events(request: Request) -> None:
        await page_events.show(board, request)

    async def start(request: Request) -> None:
        await page_start.show(board, request)

    addresses = {
        "/": runs,
        "/start": start,
        "/run/{name}": run,
        "/privacy": privacy,
        "/sites": sites,
        "/events": events,
    }
    for path, build in addresses.items():
        ui.page(path, favicon=ASSETS / "icon.svg", language="en-US", response_timeout=SLOWEST_S)(build)
    templates.env.loader = DictLoader({"index.html": page_with_nonces()})
    ui.run_with(
        app,
        title="fedlora",
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,  # the application has its own, outside of the headers
        show_welcome_message=False,
        reconnect_timeout=AWAY_S,
    )


def page_with_nonces() -> str:
    """NiceGUI's template, its script tags with the answer's nonce (doors/headers.py); what is put into it gets none."""
    source = Path(nicegui.__file__).parent / "templates" / "index.html"
    return source.read_text(encoding="utf-8").replace("<script", '<script nonce="{{ request.state.nonce }}"')
