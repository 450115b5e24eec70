"""The loop's side of the store: writes what happens, and carries out users' commands.

Guarantee: nothing that goes wrong with the store stops, delays (beyond WAIT_S, once in RETRY_S) or changes a run. What
was not written is made up for from the run's folder, which is the truth, as soon as the store can be reached again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, select

from fedlora.config import Recipe
from fedlora.processes.living import born
from server.orders import StoppedError
from server.record.checkpoint import Progress
from server.record.lines import read_records
from server.record.records import ClientAnswered, Event, RoundFinished, RoundRecord, RoundStarted, TasksSent, Waiting
from server.record.sent import Spent
from server.store.audit import append_event
from server.store.facts import RunFacts, facts_of
from server.store.keys import RunKey
from server.store.notices import write_notices
from server.store.opening import Store
from server.store.ordering import InForce, answer_orders, in_force, place_order
from server.store.rows import Kind, OrderRow
from server.store.spent import write_spent
from server.store.tables import runs
from server.store.writing import begin_run, forget_rounds_after, set_run, write_round

log = logging.getLogger("fedlora.store")

T = TypeVar("T")
RETRY_S = 30.0
LOOK_S = 1.0
"""Seconds between two looks for commands during a round."""
SHOW_S = 0.5
"""Seconds between two writes of the number of answers; a finished round is always written."""
POLL_S = 0.3


class Recorder:
    """Writes one run. `keeping` around the loop, `watch` for its events; it is the loop's `RunControl`."""

    def __init__(self, store: Store, *, name: str, kind: Kind, coordinator: str = "local") -> None:
        self.name = name
        self.kind: Kind = kind
        self.coordinator = coordinator
        self._store = store
        self._facts: RunFacts | None = None
        self._fraction = 1.0
        self._export_to: Callable[[Path], None] = lambda folder: None
        self._spent: Spent = lambda after: {}
        self._key: RunKey | None = None
        self._resumed_at = self._rounds = self._asked = self._answered = 0
        self._behind = True
        self._not_before = 0.0
        self._looked = self._shown = 0.0
        self._orders = InForce()

    @contextmanager
    def keeping(
        self,
        recipe: Recipe,
        progress: Progress,
        folder: Path,
        *,
        export: Callable[[Path], None],
        spent: Spent = lambda after: {},
    ) -> Iterator[None]:
        """Around the loop: the start of the run, and how it ended. `export` writes the present adapter to a folder."""
        self._facts = facts_of(recipe, progress, folder, name=self.name, kind=self.kind, coordinator=self.coordinator)
        self._fraction, self._export_to, self._spent = recipe.rounds.fraction, export, spent
        self._resumed_at = self._rounds = progress.round
        self._write("the start of the run", self._begin)
        try:
            yield
        except StoppedError as stopped:
            self._end("stopped", str(stopped))
            raise
        except KeyboardInterrupt:
            self._end("stopped", "stopped at the terminal")
            raise
        except BaseException as error:
            self._end("failed", f"{type(error).__name__}: {error}")
            raise
        self._end("finished", None)

    def watch(self, event: Event) -> None:
        """The loop's events, as they come."""
        now = time.time()
        if isinstance(event, RoundFinished):
            self._rounds = event.record.round
            self._write(f"round {event.record.round}", lambda connection: self._round(connection, event.record))
        elif isinstance(event, RoundStarted):
            self._asked, self._answered = event.asked, 0
            values = {"state": "running", "asked": event.asked, "answered": 0, "round_begun_at": now}
            self._set("the start of a round", **values, waits_until=None)
        elif isinstance(event, TasksSent):
            self._write("what was sent", self._write_spent)
        elif isinstance(event, ClientAnswered):
            self._answered += 1
            if self._due(SHOW_S) or self._answered == self._asked:
                self._set("a client's answer", answered=self._answered)
        elif isinstance(event, Waiting) and self._due(SHOW_S):
            values = {"connected": event.connected, "needed": event.needed, "waits_until": now + event.seconds_left}
            self._set("waiting for clients", state="waiting", **values)

    def before_round(self, number: int) -> None:
        """See Orders."""
        paused = False
        while True:
            orders = self._look()
            self._export(orders, number)
            self._stop_if(orders, ("stop", "stop-now"), f"before round {number}")
            news = [order for order in orders.news if order.action in ("exclude", "include", "pause", "resume")]
            self._answer(news, "obeyed")
            if orders.pause is None:
                break
            if not paused or self._due(RETRY_S):
                self._set("a pause", state="paused", round_begun_at=None)
            paused = True
            time.sleep(POLL_S)
        if paused:
            self._set("the end of a pause", state="running")

    def between_rounds(self) -> None:
        """See Orders."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._stop_if(self._look(), ("stop", "stop-now"), "while it waited for clients")

    def during_round(self) -> None:
        """See Orders."""
        if time.monotonic() - self._looked >= LOOK_S:
            self._stop_if(self._look(), ("stop-now",), "in the middle of a round, which was discarded")

    def excluded(self) -> frozenset[str]:
        """See Orders."""
        return self._orders.excluded

    def _begin(self, connection: Connection) -> None:
        """The run's row; rounds that only one of folder and store has; orders that no process lived to obey."""
        assert self._facts is not None  # `keeping` comes first
        now = time.time()
        process = {"host": socket.gethostname(), "pid": os.getpid(), "born": born(os.getpid())}
        known = connection.execute(select(runs.c.id).where(runs.c.run == self._facts.run)).scalar() is not None
        self._key = begin_run(connection, self._facts, at=now, **process)
        forget_rounds_after(connection, self._key, self._resumed_at)
        self._catch_up(connection)
        kind = "run-resumed" if known or self._resumed_at else "run-started"
        self._tell(connection, kind)
        orders = in_force(connection, self._key.id)
        if self.kind == "deployment":
            return  # a coordinator starts it again by itself: what was asked of it still holds
        late = [order for order in orders.news if order.action in ("stop", "stop-now", "export")]
        answer_orders(connection, late, "no effect: the run had already ended", at=now)
        if orders.pause is not None:  # whoever starts it again wants it to go on
            place_order(connection, self._key.id, "resume", who="command line", at=now)

    def _catch_up(self, connection: Connection) -> None:
        """The rounds that the folder has and the store has not."""
        assert self._facts is not None
        assert self._key is not None
        stored = connection.execute(select(runs.c.rounds).where(runs.c.id == self._key.id)).scalar_one()
        for record in read_records(Path(self._facts.folder), after=stored):
            write_round(connection, self._key, record, at=time.time(), spent=self._spent(record.round))
        self._write_spent(connection)
        self._behind = False

    def _write_spent(self, connection: Connection) -> None:
        """What was sent may have been charged, whatever becomes of the answers."""
        assert self._key is not None
        write_spent(connection, self._key, self._spent(None))

    def _round(self, connection: Connection, record: RoundRecord) -> None:
        assert self._key is not None
        now = time.time()
        if self._behind:
            self._catch_up(connection)
        else:
            write_round(connection, self._key, record, at=now, spent=self._spent(record.round))
        excluded = self._orders.excluded
        write_notices(connection, self._key, record, fraction=self._fraction, excluded=excluded, at=now)

    def _end(self, state: str, why: str | None) -> None:
        def end(connection: Connection) -> None:
            assert self._key is not None
            now = time.time()
            if self._behind:
                self._catch_up(connection)
            self._write_spent(connection)
            set_run(connection, self._key, state=state, why=why, ended_at=now, heard_at=now, round_begun_at=None)
            self._tell(connection, f"run-{state}", why=why)

        self._not_before = 0.0  # there is no later: a store that is back by now is asked at once
        self._write("the end of the run", end)

    def _tell(self, connection: Connection, kind: str, **fields: Any) -> None:
        """An event of the run itself."""
        assert self._key is not None
        told = {"run": self._key.run, "name": self.name, "round": self._rounds, **fields}
        append_event(connection, kind, who="coordinator", at=time.time(), **told)

    def _look(self) -> InForce:
        """The commands in force; the last known ones if the store is not reachable. Also the run's heartbeat."""
        self._looked = time.monotonic()

        found = self._guarded("orders", self._read_orders)
        if found is not None:
            self._orders = found
        if self._due(RETRY_S):
            self._set("the heartbeat")
        return self._orders

    def _export(self, orders: InForce, number: int) -> None:
        for order in orders.exports:
            try:
                assert self._facts is not None
                folder = Path(self._facts.folder) / "exports" / f"round-{number - 1:04}"
                self._export_to(folder)
                outcome = str(folder)
            except Exception as error:  # an order that cannot be obeyed is answered, and costs the run nothing
                log.exception("the adapter was not exported")
                outcome = f"failed: {type(error).__name__}: {error}"
            self._answer([order], outcome)

    def _stop_if(self, orders: InForce, verbs: tuple[str, ...], when: str) -> None:
        order = orders.stop
        if order is None or order.action not in verbs:
            return
        self._answer([order], "obeyed")
        raise StoppedError(f"stopped by {order.who} {when}. Its last complete round is saved; continue with --resume.")

    def _answer(self, taken: Sequence[OrderRow], outcome: str) -> None:
        if taken:
            self._write(
                "a client's answer", lambda connection: answer_orders(connection, taken, outcome, at=time.time())
            )

    def _set(self, what: str, **values: Any) -> None:
        def write(connection: Connection) -> None:
            assert self._key is not None
            set_run(connection, self._key, heard_at=time.time(), **values)

        self._write(what, write)

    def _due(self, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._shown < every_s:
            return False
        self._shown = now
        return True

    def _write(self, what: str, write: Callable[[Connection], T]) -> T | None:
        def written() -> T:
            before = self._key, self._behind
            try:
                with self._store.writing() as connection:
                    if self._key is None and write != self._begin:
                        self._begin(connection)
                    return write(connection)
            except BaseException:
                self._key, self._behind = before  # nothing of it was written
                raise

        return self._guarded(what, written)

    def _read_orders(self) -> InForce | None:
        if self._key is None:
            return None
        with self._store.reading() as connection:
            return in_force(connection, self._key.id)

    def _guarded(self, what: str, action: Callable[[], T]) -> T | None:
        """An open store; None for a while after it was not reachable, and what was missed is written later."""
        if time.monotonic() < self._not_before:
            self._behind = True
            return None
        try:
            return action()
        except Exception as error:  # whatever it is, the run is worth more than its record
            self._behind = True
            self._not_before = time.monotonic() + RETRY_S
            said = str(error).splitlines()[0] if str(error) else ""
            log.warning(
                "a record could not be written to the store; the run continues, and the store is updated later",
                extra={"record": what, "why": f"{type(error).__name__}: {said}"},
            )
            return None
