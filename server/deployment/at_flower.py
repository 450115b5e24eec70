"""What the coordinator does through Flower's Control API: sites registered and cut off, runs started and resumed.

It runs in a thread of its own, for a SuperLink may answer late, or never.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from fedlora.processes.duties import Conditions, Routine
from server.deployment.registration import reconcile
from server.flower.control import Control
from server.flower.link_database import is_damaged
from server.runs.attempts import Watch, go_on
from server.settings import ServerSettings
from server.trust.provision import is_reconciled, read_registry

log = logging.getLogger("fedlora.server")

PING_S = 5.0
SLOW_S = 10.0
"""A call without an answer for this long is reported, in seconds; it is not ended."""


class AtFlower:
    """`turn` does what is due, in one thread; `meet`, from another, says which SuperLink there is to speak with."""

    def __init__(
        self,
        settings: ServerSettings,
        control: Control,
        conditions: Conditions,
        *,
        since: float,
        kill: Callable[[], None],
    ) -> None:
        """`since`: Unix time at the monotonic clock's zero, so that a clock that is set changes no patience. `kill`
        ends the SuperLink, so that the next one begins without its database."""
        self._settings = settings
        self._control = control
        self._conditions = conditions
        self._since = since
        self._kill = kill
        self._watch = Watch(conditions)
        self._link = Routine({"superlink": self._ping}, conditions=conditions)
        self._rest = Routine({"sites": self._see_to_sites, "runs": self._see_to_runs}, conditions=conditions)
        self._database = Routine({"superlink.db": self._look_at_database}, conditions=conditions)
        self._failures = 0
        self._superlink: object = None
        self._told: object = None
        self._registry_seen = 0.0
        self._next_ping = 0.0

    def meet(self, superlink: object) -> None:
        """The pid of the SuperLink that is ready; None: there is none."""
        self._superlink = superlink
        asked_at = self._control.asked_at
        if asked_at is not None and time.monotonic() - asked_at > SLOW_S:
            self._conditions.say("superlink", f"the SuperLink has not answered a call for more than {SLOW_S:.0f} s")

    def turn(self) -> None:
        """Whether a SuperLink is ready and answers; otherwise no calls are made."""
        if self._superlink is None:
            return
        self._link.turn()
        if self._conditions.all()["superlink"].ok:
            self._rest.turn()
        self._database.turn()

    def _ping(self) -> None:
        if self._superlink != self._told or time.monotonic() >= self._next_ping:
            self._control.ping()
            self._next_ping = time.monotonic() + PING_S

    def _see_to_sites(self) -> None:
        """Register and remove sites if sites.json has changed or the SuperLink is new, which may have lost its
        database."""
        superlink = self._superlink
        changed = (self._settings.folder / "sites.json").stat().st_mtime
        if superlink == self._told and changed == self._registry_seen:
            return
        if superlink != self._told or not is_reconciled(read_registry(self._settings)):
            registry = reconcile(self._settings, self._control)
            if not is_reconciled(registry):
                return  # the rest of them at the next turn
            log.info("sites are registered", extra={"sites": len(registry.approved)})
            changed = (self._settings.folder / "sites.json").stat().st_mtime
        self._told, self._registry_seen = superlink, changed

    def _look_at_database(self) -> None:
        """After a call that failed. A damaged one is given up as a lost one is (`server.flower.link_database`)."""
        failures = self._control.failures
        if failures == self._failures:
            return
        if is_damaged(self._settings.database):
            log.warning("superlink.db is damaged: the SuperLink is stopped and restarted without it")
            self._kill()
            self._superlink = None  # nothing more is asked of it
        self._failures = failures

    def _see_to_runs(self) -> None:
        go_on(self._settings, self._control, now=self._since + time.monotonic(), watch=self._watch)
