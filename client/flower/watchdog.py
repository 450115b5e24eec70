"""Watches a site's connection: whether the coordinator answers, and whether the SuperNode still communicates with it.

A SuperNode whose loop has ended ends (`supernode.py`), and its supervisor starts another; this is for one that is
there, has no connection and does not try, whatever keeps it. Where the coordinator itself is away, nothing is done: an
executor that trains keeps its SuperNode.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from client.flower.standing import Standing
from client.settings import ClientSettings
from fedlora.processes.duties import Conditions
from fedlora.processes.supervise import Supervisor

log = logging.getLogger("fedlora.watchdog")

CONDITION = "coordinator"
LOOK_S = 5.0
SAY_S = 15.0
"""Seconds without a connection after which a site reports it; its SuperNode usually reconnects sooner."""
ASK_S, ASK_CONNECTED_S = 15.0, 300.0
"""How often the coordinator is asked how the site stands: without a connection, and with one, for one whose other end
is frozen looks well, and so does that of a site that was just revoked."""

AWAY = "the coordinator does not answer at {}"
NOT_CONNECTED = "the SuperNode has no connection to the coordinator"
OTHER = (
    "the server at {} presents a certificate that this site's authority did not sign: if the coordinator has replaced "
    "its authority, ask for a new grant (fedlora admin grant), then: fedlora client accept"
)
UNKNOWN = (
    "the coordinator does not accept this site's key: it was revoked or replaced; ask the coordinator's administrator"
)


UNREACHED = (Standing.AWAY, Standing.OTHER_AUTHORITY)


class Watchdog:
    """Reports the site's connection to its coordinator in the condition `coordinator`.

    Ends a SuperNode that has had no connection for `patience.connection_s` (`start_s` before its first) while the
    coordinator answered the agent for `connection_s`; and the agent of a site that was revoked `revoked_s` ago
    and, asked again, still is.
    """

    def __init__(
        self,
        settings: ClientSettings,
        *,
        connected: Callable[[int], bool],
        standing: Callable[[], Standing],
        conditions: Conditions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._connected = connected
        self._standing = standing
        self._conditions = conditions
        self._clock = clock
        self._next = 0.0
        self._pid: int | None = None
        self._heard = clock()
        self._connected_once = False
        self._asked_at = clock()
        self._last = Standing.UNSURE
        self._answers_since: float | None = None
        self._unknown_since: float | None = None
        self.is_revoked = False
        """Whether the agent must stop: the site is revoked."""

    def look(self, supervisor: Supervisor) -> None:
        """Takes as long as the coordinator does to answer: not to be called by whoever must not wait."""
        if self._clock() < self._next:
            return
        pid = supervisor.pid("supernode")
        if pid != self._pid:
            self._pid, self._heard, self._connected_once = pid, self._clock(), False
        connected = pid is not None and self._connected(pid)
        if connected:
            self._heard, self._connected_once = self._clock(), True
        well = connected and self._last in (Standing.ACCEPTED, Standing.UNSURE)
        self._ask(every_s=ASK_CONNECTED_S if well else ASK_S)
        self._say()
        self._end_what_is_over(supervisor)
        self._next = self._clock() + LOOK_S

    @property
    def _silent_s(self) -> float:
        return self._clock() - self._heard

    def _ask(self, *, every_s: float) -> None:
        if self._clock() - self._asked_at < every_s:
            return
        self._last = self._standing()
        now = self._asked_at = self._clock()
        self._answers_since = None if self._last in UNREACHED else self._answers_since or now
        self._unknown_since = (self._unknown_since or now) if self._last is Standing.UNKNOWN else None

    def _say(self) -> None:
        if self._last is Standing.UNKNOWN:
            self._conditions.say(CONDITION, UNKNOWN)
        elif self._last is Standing.OTHER_AUTHORITY:
            self._conditions.say(CONDITION, OTHER.format(self._settings.coordinator))
        elif self._last is Standing.AWAY:
            self._conditions.say(CONDITION, AWAY.format(self._settings.coordinator))
        elif self._last is Standing.WRONG_TIME:
            self._conditions.say(CONDITION, "the coordinator refuses this machine's clock: timedatectl set-ntp true")
        elif self._silent_s >= SAY_S:
            self._conditions.say(CONDITION, NOT_CONNECTED)
        elif self._connected_once:
            self._conditions.say(CONDITION, None)

    def _end_what_is_over(self, supervisor: Supervisor) -> None:
        patience, now = self._settings.patience, self._clock()
        if self._unknown_since is not None and self._asked_at - self._unknown_since >= patience.revoked_s:
            log.error("this site is revoked; its agent stops", extra={"why": UNKNOWN})
            self.is_revoked = True
            supervisor.stop()
            return
        bound = patience.connection_s if self._connected_once else patience.start_s
        if self._silent_s < bound or self._answers_since is None or now - self._answers_since < patience.connection_s:
            return
        log.warning("the SuperNode has no connection and does not reconnect", extra={"seconds": bound})
        supervisor.kill("supernode")
