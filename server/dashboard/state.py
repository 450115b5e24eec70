"""State shared by all pages: the store, the access rules, and reads in a separate thread so that no page waits for
another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from server.dashboard.doors.gate import Auth
from server.runs.launch import RunLauncher
from server.store.audit import append_event
from server.store.opening import Store

T = TypeVar("T")


@dataclass(frozen=True)
class AppState:
    """One per dashboard."""

    store: Store
    doors: Auth
    pad: RunLauncher | None = None
    """Where runs can be started; None: nowhere."""
    every_s: float = 1.0
    """How often an open page looks whether something is new."""

    async def read(self, what: Callable[[Connection], T]) -> T:
        """`what` of the store, in one transaction: figures of a page fit each other."""
        return await asyncio.to_thread(self.read_now, what)

    def read_now(self, what: Callable[[Connection], T]) -> T:
        with self.store.reading() as connection:
            return what(connection)

    async def write(self, what: Callable[[Connection], T]) -> T:
        """`what` in one writing transaction."""

        def now() -> T:
            with self.store.writing() as connection:
                return what(connection)

        return await asyncio.to_thread(now)

    async def audit(self, who: str, kind: str, *, run: str | None = None, **fields: Any) -> None:
        """A line of the audit log."""
        await self.write(lambda connection: append_event(connection, kind, who=who, at=time.time(), run=run, **fields))
