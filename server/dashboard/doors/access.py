"""Users, API tokens and roles of the dashboard, in one private file beside the store, read again when it changes.

Guarantee: a route that depends on `require(role)` answers only to somebody whose role covers it; a user or a token that
is removed, expires or loses its role loses access with the next request or message, without a restart.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from fastapi import HTTPException, Request
from pydantic import Field, ValidationError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fedlora.deployment.enrolment import require_name
from fedlora.deployment.private_files import require_private, write_private
from fedlora.settings import Settings, SettingsError
from server.dashboard.doors.passwords import digest, hash_password, password_matches


class Role(StrEnum):
    """Roles; each includes the ones before it."""

    VIEWER = "viewer"
    """Reads everything."""
    OPERATOR = "operator"
    """Starts, pauses and stops runs, excludes sites, exports adapters."""
    ADMIN = "admin"
    """Removes runs."""

    def covers(self, needed: Role) -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class Principal:
    """Somebody who is logged in: a user, `token:NAME`, or `terminal`, who had the link that it printed."""

    name: str
    role: Role


class User(Settings):
    role: Role
    password: str
    created: datetime


class Token(Settings):
    role: Role
    digest: str
    created: datetime
    expires: datetime | None = None


class AccessList(Settings):
    """The content of the file."""

    users: dict[str, User] = Field(default_factory=dict)
    tokens: dict[str, Token] = Field(default_factory=dict)


class Access:
    """The file, as it is now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int], AccessList] | None = None

    def now(self) -> AccessList:
        """SettingsError if others may read the file or it is damaged: nobody is let in then."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return AccessList()
        stamp = (status.st_mtime_ns, status.st_ino)
        if self._read is None or self._read[0] != stamp:
            text = require_private(self.path).read_text(encoding="utf-8")
            try:
                self._read = (stamp, AccessList.model_validate_json(text))
            except ValidationError:
                raise SettingsError(
                    f"{self.path} is damaged; remove it and add users again: fedlora dashboard user add NAME"
                ) from None
        return self._read[1]

    def add_user(self, name: str, role: Role, password: str) -> None:
        """Add a user, or give one a new role and password."""
        user = User(role=role, password=hash_password(password), created=datetime.now(UTC))
        users = {**self.now().users, require_name(name, what="user"): user}
        self._write(self.now().model_copy(update={"users": users}))

    def remove_user(self, name: str) -> None:
        users = dict(self.now().users)
        if users.pop(name, None) is None:
            raise SettingsError(f"there is no user {name!r}; there are: {', '.join(sorted(users)) or 'none'}.")
        self._write(self.now().model_copy(update={"users": users}))

    def add_token(self, name: str, role: Role, *, days: int | None) -> str:
        """A new API token, which only its holder will know; None: it does not expire."""
        listed = self.now()
        if require_name(name, what="token") in listed.tokens:
            raise SettingsError(f"there is a token {name!r}; remove it first: fedlora dashboard token rm {name}")
        created = datetime.now(UTC)
        secret = f"fedlora_{secrets.token_urlsafe(32)}"
        expires = None if days is None else created + timedelta(days=days)
        token = Token(role=role, digest=digest(secret), created=created, expires=expires)
        self._write(listed.model_copy(update={"tokens": {**listed.tokens, name: token}}))
        return secret

    def remove_token(self, name: str) -> None:
        tokens = dict(self.now().tokens)
        if tokens.pop(name, None) is None:
            raise SettingsError(f"there is no token {name!r}; there are: {', '.join(sorted(tokens)) or 'none'}.")
        self._write(self.now().model_copy(update={"tokens": tokens}))

    def by_password(self, name: str, password: str) -> Principal | None:
        """Slow by design (passwords.py): not for the event loop's thread."""
        user = self.now().users.get(name)
        matches = password_matches(password, None if user is None else user.password)
        return Principal(name, user.role) if user is not None and matches else None

    def stamp(self, name: str) -> str:
        """Differs after a new password: sessions from before are over. SettingsError if there is no such user."""
        user = self.now().users.get(name)
        if user is None:
            raise SettingsError(f"there is no user {name!r}.")
        return digest(user.password)

    def by_name(self, name: str, stamp: str) -> Principal | None:
        """The user behind a session, with today's role; None if they are gone or have a new password."""
        user = self.now().users.get(name)
        return Principal(name, user.role) if user is not None and digest(user.password) == stamp else None

    def by_token(self, secret: str) -> Principal | None:
        presented, today = digest(secret), datetime.now(UTC)
        for name, token in self.now().tokens.items():
            if secrets.compare_digest(token.digest, presented):
                expired = token.expires is not None and token.expires <= today
                return None if expired else Principal(f"token:{name}", token.role)
        return None

    def _write(self, content: AccessList) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.path, content.model_dump_json(indent=2).encode())


def access_path(store: str) -> Path:
    """Beside a SQLite store, a path or a URL, under its name: runs/fedlora.db has runs/fedlora.access.json."""
    if "://" not in store:
        return Path(store).with_suffix(".access.json")
    try:
        url = make_url(store)
    except ArgumentError:
        raise SettingsError(f"the store {store!r} is not a URL; write sqlite:///path/to/file.db.") from None
    if url.get_backend_name() != "sqlite" or not url.database:
        raise SettingsError("name the file on this machine that stores users and tokens: --access /path/access.json")
    return Path(url.database).with_suffix(".access.json")


def require(role: Role) -> Callable[[Request], Principal]:
    """A FastAPI dependency: whoever asks, or 401 without a login and 403 if their role does not cover `role`."""

    def check(request: Request) -> Principal:
        principal = getattr(request.state, "principal", None)  # put there by gate.py, and by nobody else
        if not isinstance(principal, Principal):
            raise HTTPException(401, "Log in, or send `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"})
        if not principal.role.covers(role):
            raise HTTPException(403, f"{principal.name} has the role {principal.role.value}; this needs {role.value}.")
        return principal

    return check
