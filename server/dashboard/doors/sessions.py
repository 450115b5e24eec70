"""Open sessions, and the limit on login attempts. Both live in this process: a restart logs everyone out.

Guarantee: a session ends LONGEST_S after the login and IDLE_S after its last request or message; the link that the
terminal prints works once; after TRIES failures an address, or TRIES_A_USER a user, waits up to WINDOW_S.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from server.dashboard.doors.passwords import digest

LONGEST_S = 12 * 3600.0
IDLE_S = 3600.0
MOST_SESSIONS = 1000
WINDOW_S = 900.0
TRIES = 5
TRIES_A_USER = 20
MOST_KEYS = 10_000

Clock = Callable[[], float]


@dataclass(frozen=True)
class Session:
    """`user` None: somebody who had the link, that is, who has this machine's terminal."""

    user: str | None
    stamp: str
    """Of the password that it was opened with."""
    csrf: str
    opened: float


class Sessions:
    """Open sessions by the digest of their secret: a dump of this process does not let anybody in."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[str, Session] = {}
        self._seen: dict[str, float] = {}
        self._link: str | None = None

    def open(self, user: str | None, stamp: str = "") -> str:
        """A new session's secret, for the cookie."""
        if len(self._open) >= MOST_SESSIONS:
            self._end(min(self._seen, key=self._seen.__getitem__))
        secret, now = secrets.token_urlsafe(32), self._clock()
        self._open[digest(secret)] = Session(user, stamp, csrf=secrets.token_urlsafe(32), opened=now)
        self._seen[digest(secret)] = now
        return secret

    def find(self, secret: str) -> Session | None:
        """The session, which has been used just now; None if there is none or it has expired."""
        key, now = digest(secret), self._clock()
        session = self._open.get(key)
        if session is None:
            return None
        if now - session.opened >= LONGEST_S or now - self._seen[key] >= IDLE_S:
            self._end(key)
            return None
        self._seen[key] = now
        return session

    def close(self, secret: str) -> None:
        if digest(secret) in self._open:
            self._end(digest(secret))

    def new_link(self) -> str:
        """A secret that opens one session; the one before is void."""
        secret = secrets.token_urlsafe(32)
        self._link = digest(secret)
        return secret

    def redeem(self, secret: str) -> bool:
        """Whether this is the link's secret, for the first time."""
        if self._link is None or not secrets.compare_digest(self._link, digest(secret)):
            return False
        self._link = None
        return True

    def _end(self, key: str) -> None:
        del self._open[key], self._seen[key]


class LoginLimit:
    """Failed logins of the last WINDOW_S, by address and by user."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, deque[float]] = defaultdict(deque)

    def wait_s(self, address: str, user: str) -> float:
        """Seconds until this address may try this user again; 0: now."""
        return max(self._wait(f"from {address}", TRIES), self._wait(f"user {user}", TRIES_A_USER))

    def failed(self, address: str, user: str) -> None:
        if len(self._failures) > MOST_KEYS:  # a flood of names must not fill the memory
            self._forget()
        for key in (f"from {address}", f"user {user}"):
            self._failures[key].append(self._clock())

    def succeeded(self, address: str, user: str) -> None:
        self._failures.pop(f"from {address}", None)
        self._failures.pop(f"user {user}", None)

    def _wait(self, key: str, tries: int) -> float:
        times = self._failures.get(key)
        if times is None:
            return 0.0
        while times and self._clock() - times[0] >= WINDOW_S:
            times.popleft()
        return WINDOW_S - (self._clock() - times[-tries]) if len(times) >= tries else 0.0

    def _forget(self) -> None:
        newest = sorted(self._failures, key=lambda key: self._failures[key][-1] if self._failures[key] else 0.0)
        for key in newest[: len(newest) // 2]:
            del self._failures[key]
