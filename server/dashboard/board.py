"""What pages stand on: the store, the doors, and reading in a thread of its own so that no page waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection

from server.dashboard.gate import Doors
from server.store.opening import Store

T = TypeVar("T")


@dataclass(frozen=True)
class Board:
    """One per dashboard."""

    store: Store
    doors: Doors
    every_s: float = 1.0
    """How often an open page looks whether something is new."""

    async def read(self, what: Callable[[Connection], T]) -> T:
        """`what` of the store, in one transaction: figures of a page fit each other."""
        return await asyncio.to_thread(self.read_now, what)

    def read_now(self, what: Callable[[Connection], T]) -> T:
        with self.store.reading() as connection:
            return what(connection)
