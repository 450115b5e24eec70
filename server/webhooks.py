"""Webhooks: settings, the message, and the signature that proves it.

The receiver computes HMAC-SHA256 of `timestamp.body` with the secret that both know and compares it with the header:

    X-Fedlora-Timestamp: 1790000000
    X-Fedlora-Signature: sha256=...
"""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fedlora.deployment.environment import load_settings
from fedlora.deployment.private_files import require_private
from fedlora.settings import Settings, SettingsError
from server.store.rows import EventRow

EventName = Literal[
    "budget-nearly-spent", "receipt-refused", "new-dataset", "new-ledger", "site-missing", "site-back", "run-finished",
    "run-failed", "run-stopped",
]  # fmt: skip
USUAL: tuple[EventName, ...] = ("budget-nearly-spent", "receipt-refused", "site-missing", "run-finished", "run-failed")
TIMEOUT_S = 10.0


class Webhook(Settings):
    """One receiver of audit log events."""

    url: str
    """https://..., or http:// to this machine. Redirects are not followed."""

    secret: Path
    """A file that only its owner can read, with the secret that signs what is sent."""

    events: tuple[EventName, ...] = Field(USUAL, min_length=1)
    """The kinds of events to send."""

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme not in ("http", "https") or not parts.hostname or (parts.scheme == "http" and not local):
            raise ValueError("a webhook's url is https://, or http:// on this machine")
        return url


class Webhooks(Settings):
    """The file beside a store, where there is no server.yaml."""

    webhooks: tuple[Webhook, ...] = ()
    """Every receiver."""


def hooks_beside(store: str) -> tuple[Webhook, ...]:
    """The webhooks in runs/fedlora.webhooks.yaml for runs/fedlora.db; none if there is no such file."""
    path = Path(store.removeprefix("sqlite:///")).with_suffix(".webhooks.yaml")
    return located(load_settings(Webhooks, path).webhooks, path.parent) if path.exists() else ()


def located(hooks: Iterable[Webhook], folder: Path) -> tuple[Webhook, ...]:
    """Paths of secrets are relative to the file that names them."""
    return tuple(hook.model_copy(update={"secret": folder / hook.secret}) for hook in hooks)


@dataclass(frozen=True)
class Answer:
    """A receiver's answer."""

    ok: bool
    why: str | None = None


def secret_of(hook: Webhook) -> bytes:
    """SettingsError for a file that is not there, empty, or readable by others."""
    secret = require_private(hook.secret).read_bytes().strip()
    if len(secret) < 16:
        raise SettingsError(f"the webhook's secret {hook.secret} is shorter than 16 bytes; write a longer random one.")
    return secret


def body_of(event: EventRow) -> bytes:
    """The event as JSON: kind, time, run, and its own fields."""
    told: dict[str, Any] = {"event": event.kind, "at": event.at, "run": event.run, "sequence": event.sequence}
    return json.dumps({**told, "fields": dict(event.fields)}, sort_keys=True).encode()


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """The timestamp is signed too, so that an old message cannot be sent again as a new one.

    >>> signature(b"secret", 1, b"{}")[:20]
    'sha256=1122767b19311'
    """
    return "sha256=" + hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def send(hook: Webhook, secret: bytes, event: EventRow, *, now: float) -> Answer:
    """POST one event; never raises for what the other side or the network does."""
    body, timestamp = body_of(event), int(now)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "fedlora",
        "X-Fedlora-Timestamp": str(timestamp),
        "X-Fedlora-Signature": signature(secret, timestamp, body),
    }
    request = urllib.request.Request(hook.url, data=body, headers=headers, method="POST")
    try:
        with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
            return Answer(200 <= answer.status < 300, f"status {answer.status}")
    except urllib.error.HTTPError as error:
        return Answer(False, f"status {error.code}")
    except (OSError, ValueError) as error:
        return Answer(False, type(error).__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are not followed: a receiver that moves must be changed in the settings, because a redirect could lead
    anywhere."""

    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
