"""Headers of every answer: nothing is loaded from elsewhere, no other site frames a page, only our inline scripts run.

An answer's nonce is `request.state.nonce`, for a page's own scripts (pages/addresses.py). Vue compiles templates in the
browser, which needs 'unsafe-eval'; a script that somebody smuggles into a page still has no nonce, and does not run.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

FIXED = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
A_YEAR_S = 31_536_000


def content_policy(nonce: str) -> str:
    """The Content-Security-Policy."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}' 'unsafe-eval'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data: blob:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "manifest-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ]
    )


class SecurityHeaders:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self.app = app
        self.tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        nonce = secrets.token_urlsafe(16)
        scope["state"] = {**scope.get("state", {}), "nonce": nonce}

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add(MutableHeaders(scope=message), nonce)
            await send(message)

        await self.app(scope, receive, guarded)

    def _add(self, headers: MutableHeaders, nonce: str) -> None:
        for name, value in FIXED.items():
            headers[name] = value
        headers["Content-Security-Policy"] = content_policy(nonce)
        headers.setdefault("Cache-Control", "no-store")
        if self.tls:
            headers["Strict-Transport-Security"] = f"max-age={A_YEAR_S}"
