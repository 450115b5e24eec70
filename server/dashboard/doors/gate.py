"""Every request and every websocket message passes here, and is refused unless it is known who sends it.

Guarantee: without a session or a token only PUBLIC paths answer; a websocket is closed with the session that opened it;
what a browser sends from another site (another Origin) changes nothing and opens no websocket; a request that changes
something and is let in by a cookie carries the session's CSRF token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.dashboard.doors.access import Access, Principal, Role
from server.dashboard.doors.sessions import LoginLimit, Session, Sessions

PUBLIC = ("/login", "/enter", "/healthz", "/assets/")
OWN_CSRF = ("/login", "/logout")
"""Forms: their handlers read the token from the form."""
MACHINES = ("/api/", "/metrics")
SAFE = ("GET", "HEAD", "OPTIONS")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TERMINAL = Principal("terminal", Role.ADMIN)
BY_SCHEME = {True: "__Host-fedlora", False: "fedlora-session"}

log = logging.getLogger("fedlora.dashboard")
Audit = Callable[[str, str, Mapping[str, object]], None]


def log_only(actor: str, kind: str, particulars: Mapping[str, object]) -> None:
    """Where there is no store to write to."""
    log.info(kind, extra={"actor": actor, **particulars})


@dataclass(frozen=True)
class Auth:
    """What decides about access: one of each per dashboard."""

    access: Access
    sessions: Sessions = field(default_factory=Sessions)
    limit: LoginLimit = field(default_factory=LoginLimit)
    tls: bool = False
    """Whether browsers speak TLS to this dashboard: cookies are sent over nothing else then."""
    hosts: tuple[str, ...] | None = LOOPBACK
    """Names in the Host header that are answered, against DNS rebinding; None: any."""
    audit: Audit = log_only
    """Called with who, what, and particulars: the audit log."""

    @property
    def cookie(self) -> str:
        return BY_SCHEME[self.tls]

    def session_secret(self, headers: Headers) -> str | None:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return None
        return None if morsel is None else morsel.value

    def session(self, headers: Headers) -> Session | None:
        secret = self.session_secret(headers)
        return None if secret is None else self.sessions.find(secret)

    def principal(self, headers: Headers) -> tuple[Principal | None, Session | None]:
        """Who asks; with a bearer token the cookie is not looked at."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind:
            return (self.access.by_token(token.strip()) if kind.lower() == "bearer" else None), None
        session = self.session(headers)
        if session is None:
            return None, None
        known = TERMINAL if session.user is None else self.access.by_name(session.user, session.stamp)
        return known, session


class AuthMiddleware:
    """ASGI middleware. What it finds out is in `request.state.principal` and `request.state.session`."""

    def __init__(self, app: ASGIApp, doors: Auth) -> None:
        self.app = app
        self.doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refused = self._refuse_request(scope, Headers(scope=scope))
            await (refused or self.app)(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._refuse_websocket(scope, Headers(scope=scope)):
                await receive()
                await send({"type": "websocket.close", "code": 4401})
                return
            await self.app(scope, self._while_logged_in(scope, receive), send)
        else:
            await self.app(scope, receive, send)

    def _refuse_request(self, scope: Scope, headers: Headers) -> Response | None:
        """None to let it pass."""
        path, method = scope["path"], scope["method"]
        if not self._known_host(headers):
            return JSONResponse(
                {"detail": f"This dashboard is served only at {', '.join(self.doors.hosts or ())}."}, 421
            )
        if method not in SAFE and not same_origin(headers, must_say=False):
            return JSONResponse({"detail": "Refused: the request came from a page of another site."}, 403)
        principal, session = self.doors.principal(headers)
        scope["state"] = {**scope.get("state", {}), "principal": principal, "session": session}
        if path.startswith(PUBLIC):
            return None
        if principal is None:
            return _ask_for_login(scope)
        unsafe = method not in SAFE and session is not None and path not in OWN_CSRF
        if unsafe and headers.get("x-csrf-token") != (session.csrf if session else None):
            return JSONResponse({"detail": "Send the session's token as X-CSRF-Token, or use an API token."}, 403)
        return None

    def _refuse_websocket(self, scope: Scope, headers: Headers) -> bool:
        principal, session = self.doors.principal(headers)
        known = self._known_host(headers) and same_origin(headers, must_say=True)
        return not known or principal is None or session is None

    def _while_logged_in(self, scope: Scope, receive: Receive) -> Receive:
        """Messages until the session ends; then the connection does."""
        headers = Headers(scope=scope)

        async def checked() -> Message:
            message = await receive()
            if message["type"] == "websocket.receive" and self.doors.principal(headers)[0] is None:
                return {"type": "websocket.disconnect", "code": 4401}
            return message

        return checked

    def _known_host(self, headers: Headers) -> bool:
        if self.doors.hosts is None:
            return True
        try:
            return urlsplit(f"//{headers.get('host', '')}").hostname in self.doors.hosts
        except ValueError:
            return False


def same_origin(headers: Headers, *, must_say: bool) -> bool:
    """Whether the page that sends this is one of ours. Browsers say so wherever it matters; other clients need not."""
    origin = headers.get("origin")
    if origin is None:
        return not must_say and headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return urlsplit(origin).netloc == headers.get("host")


def _ask_for_login(scope: Scope) -> Response:
    path = scope["path"]
    if path.startswith(MACHINES) or scope["method"] != "GET":
        return JSONResponse(
            {"detail": "Log in, or send `Authorization: Bearer TOKEN`."}, 401, {"WWW-Authenticate": "Bearer"}
        )
    query = scope["query_string"].decode("latin-1")
    return RedirectResponse(f"/login?next={quote(path + ('?' + query if query else ''))}", 303)
