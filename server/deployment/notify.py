"""Sends events of the audit log to webhooks, from a thread of whichever process has them in its settings.

Guarantee: the loop never waits for a receiver, and never learns that there is one. Each event is tried at most
MOST_ATTEMPTS times, with growing pauses, in order; what was tried is in the store, so a restart neither forgets nor
repeats. A receiver that is away delays only its own messages.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, desc, func, select
from sqlalchemy.exc import SQLAlchemyError

from fedlora.settings import SettingsError
from server.store.audit import events_after
from server.store.keys import upsert
from server.store.opening import Store
from server.store.rows import EventRow
from server.store.tables import deliveries, events
from server.webhooks import Webhook, secret_of, send

log = logging.getLogger("fedlora.notify")

MOST_ATTEMPTS = 6
FIRST_PAUSE_S = 5.0
"""First pause before another attempt, in seconds; it doubles each time: 5, 10, 20, 40, 80."""
LOOK_S = 2.0
OLDEST_S = 86_400.0
"""Oldest event that is sent to a webhook seen for the first time, in seconds."""


class Notifier:
    """One per process. `start` and `stop`, or `step` by hand."""

    def __init__(self, store: Store, hooks: Sequence[Webhook], *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._hooks = [(hook, secret_of(hook)) for hook in hooks]
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        if self._hooks:
            self._thread.start()

    def stop(self) -> None:
        """Without waiting for a receiver."""
        self._stop.set()

    def step(self) -> int:
        """Send what is due to every webhook; returns how many messages were accepted."""
        return sum(self._serve(hook, secret) for hook, secret in self._hooks)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            try:
                self.step()
            except (SQLAlchemyError, SettingsError, OSError) as error:
                log.warning("webhooks are waiting for the store", extra={"why": f"{type(error).__name__}"})

    def _serve(self, hook: Webhook, secret: bytes) -> int:
        """In order, until one is refused: the next try waits for its pause."""
        name, accepted = name_of(hook), 0
        while (due := self._due(hook, name)) is not None:
            event, attempts, tried_at = due
            now = self._clock()
            if attempts and now - tried_at < FIRST_PAUSE_S * 2 ** (attempts - 1):
                return accepted
            answer = send(hook, secret, event, now=now)
            attempts += 1
            state = "sent" if answer.ok else "given-up" if attempts >= MOST_ATTEMPTS else "waiting"
            with self._store.writing() as connection:
                _note(connection, name, event.sequence, state, attempts, at=now, why=None if answer.ok else answer.why)
            if state == "waiting":
                return accepted
            if state == "given-up":
                log.warning("a webhook did not answer", extra={"url": hook.url, "event": event.kind, "why": answer.why})
            accepted += answer.ok
        return accepted

    def _due(self, hook: Webhook, name: str) -> tuple[EventRow, int, float] | None:
        with self._store.reading() as connection:
            last = connection.execute(
                select(deliveries).where(deliveries.c.hook == name).order_by(desc(deliveries.c.sequence)).limit(1)
            ).one_or_none()
            if last is None:
                after = _before(connection, self._clock() - OLDEST_S)
            elif last.state == "waiting":
                after = last.sequence - 1
            else:
                after = last.sequence
            for event in _wanted(connection, hook, after):
                if last is not None and last.state == "waiting" and last.sequence == event.sequence:
                    return event, last.attempts, last.at
                return event, 0, 0.0
        return None


def name_of(hook: Webhook) -> str:
    """The key of a webhook's deliveries: another address is another webhook."""
    return hashlib.sha256(hook.url.encode()).hexdigest()[:16]


def _wanted(connection: Connection, hook: Webhook, after: int) -> list[EventRow]:
    """The first event after that one which the webhook is for."""
    query = select(func.min(events.c.sequence)).where(events.c.sequence > after, events.c.kind.in_(hook.events))
    first = connection.execute(query).scalar()
    return [] if first is None else events_after(connection, first - 1, limit=1)


def _before(connection: Connection, moment: float) -> int:
    query = select(func.coalesce(func.max(events.c.sequence), 0)).where(events.c.at < moment)
    return int(connection.execute(query).scalar_one())


def _note(
    connection: Connection, name: str, sequence: int, state: str, attempts: int, *, at: float, why: str | None
) -> None:
    values = {"state": state, "attempts": attempts, "at": at, "why": why}
    adding = upsert(connection, deliveries).values(hook=name, sequence=sequence, **values)
    connection.execute(adding.on_conflict_do_update(index_elements=["hook", "sequence"], set_=values))
