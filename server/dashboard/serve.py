"""The dashboard's process: access rules, address and start-up messages."""

from __future__ import annotations

import ipaddress
import logging
import time
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError

from fedlora.deployment.private_files import require_private
from fedlora.settings import RunError, SettingsError
from server.dashboard.app import create_app
from server.dashboard.doors.access import Access
from server.dashboard.doors.gate import LOOPBACK, Audit, Auth, log_only
from server.dashboard.inherited import address_of, inherited_socket
from server.dashboard.machine.api import add_api
from server.dashboard.pages.addresses import add_pages
from server.dashboard.state import AppState
from server.deployment.notify import Notifier
from server.runs.launch import RunLauncher, launchpad
from server.runs.recipe_files import require_apart
from server.store.audit import append_event
from server.store.opening import Store, open_store
from server.webhooks import hooks_beside

log = logging.getLogger("fedlora.dashboard")


@dataclass(frozen=True)
class BindConfig:
    """Where, and how it is protected on the way."""

    host: str = "127.0.0.1"
    port: int = 8470
    tls_cert: Path | None = None
    tls_key: Path | None = None
    plain_http: bool = False
    """Connections are protected without TLS here: by a proxy in front, or because the port is published on loopback
    only."""

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"


def doors_for(listening: BindConfig, access: Access, audit: Audit = log_only) -> Auth:
    """SettingsError for a combination that would let others in or listen in."""
    if (listening.tls_cert is None) != (listening.tls_key is None):
        raise SettingsError("--tls-cert and --tls-key must be given together; give both or neither.")
    if listening.tls_key is not None:
        require_private(listening.tls_key)
    local = is_loopback(listening.host)
    if not local and not access.now().users:
        raise SettingsError(
            f"--host {listening.host} is reachable from other machines, and there is no user yet; add one first: "
            "fedlora dashboard user add NAME --role admin"
        )
    if not local and not listening.tls and not listening.plain_http:
        raise SettingsError(
            f"--host {listening.host} without TLS would send passwords unencrypted; give --tls-cert and --tls-key, "
            "or --plain-http if a proxy in front provides TLS or the port is published on loopback only."
        )
    return Auth(access, tls=listening.tls, hosts=LOOPBACK if local else None, audit=audit)


@dataclass(frozen=True)
class Starting:
    """What operators may start from a page, besides a coordinator's runs."""

    simulations: bool = False
    """They run with this process's rights, whoever asked for them through whatever proxy."""
    files: Path | None = None
    """The one folder below which their recipes may name data and models."""


def pad_for(store: str, starting: Starting, access: Path) -> RunLauncher | None:
    """Where runs are started; SettingsError for a folder of files that holds the store or the accounts."""
    pad = launchpad(store)
    if pad is None or (pad.deployment is None and not starting.simulations):
        return None
    if starting.files is not None:
        coordinator = [] if pad.deployment is None else [pad.deployment.folder]
        require_apart(starting.files, pad.runs, Path(pad.store), access, *coordinator)
    return replace(pad, files=starting.files)


def audit_log(store: Store) -> Audit:
    """Logins as lines of the audit log. A store that cannot be written to keeps nobody out: it is logged here too."""

    def write(actor: str, kind: str, particulars: Mapping[str, object]) -> None:
        log_only(actor, kind, particulars)
        try:
            with store.writing() as connection:
                append_event(connection, kind, who=actor, at=time.time(), run=None, **particulars)
        except SQLAlchemyError:
            log.exception("a login could not be written to the audit log")

    return write


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def build(board: AppState) -> FastAPI:
    """Everything that is served, over this board."""
    app = create_app(board.doors)
    add_api(app, board.store, board.pad)
    add_pages(app, board)
    return app


def serve(
    store: str,
    listening: BindConfig,
    access: Access,
    *,
    starting: Starting,
    show: Callable[[str], None],
    browser: bool,
) -> None:
    """Serve until interrupted; on the port that systemd has opened, where it has."""
    listener = inherited_socket()
    if listener is not None:
        host, port = address_of(listener)
        listening = replace(listening, host=host, port=port)
    doors_for(listening, access)  # what would not be safe is refused before anything is opened
    pad = pad_for(store, starting, access.path)
    opened = open_store(store)
    doors = doors_for(listening, access, audit_log(opened))
    board = AppState(opened, doors, pad)
    app = build(board)
    Notifier(opened, hooks_beside(store)).start()
    show(f"The dashboard shows {board.store.url}. Stop it with Ctrl-C.")
    greet(listening, doors, show=show, browser=browser)
    config = uvicorn.Config(
        app,
        host=listening.host,
        port=listening.port,
        ssl_certfile=listening.tls_cert,
        ssl_keyfile=listening.tls_key,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets=None if listener is None else [listener])
    if not server.started:
        raise RunError(f"the dashboard cannot listen at {listening.url}; see its log above.")


def greet(listening: BindConfig, doors: Auth, *, show: Callable[[str], None], browser: bool) -> None:
    """Print how to log in."""
    if is_loopback(listening.host):
        link = f"{listening.url}/enter?link={doors.sessions.new_link()}"
        show(f"Open this link, which works once and logs you in as admin:\n  {link}")
        if doors.access.now().users:
            show(f"Users log in at {listening.url}/login")
        if browser:
            webbrowser.open(link)
    else:
        show(f"Users log in at {listening.url}/login")
