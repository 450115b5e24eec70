"""Recurring maintenance tasks of a long-running process: each runs in its own `try` and reports its condition."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fedlora.settings import SettingsError

log = logging.getLogger("fedlora.duties")

RETRY_S = 5.0
"""Pause after a task has failed, in seconds, so that it does not take the time of the others."""


@dataclass(frozen=True)
class Condition:
    """Condition of a maintenance task, or of something that it looks after."""

    ok: bool
    why: str | None
    """The problem; None if there is none."""

    since: float
    """Unix time: it has been so since then."""


class Conditions:
    """Conditions by name; written and read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._all: dict[str, Condition] = {}
        self._telling = threading.Lock()

    def say(self, name: str, why: str | None) -> None:
        """`why` is what is wrong; None: all is well. A change is logged, once."""
        with self._telling:
            known = self._all.get(name)
            if known is not None and known.why == why:
                return
            self._all = {**self._all, name: Condition(why is None, why, self._clock())}
        if why is not None:
            log.warning("a maintenance task reports a problem", extra={"what": name, "why": why})
        elif known is not None:
            log.info("all maintenance tasks succeed again", extra={"what": name})

    def say_if_any(self, name: str, why: str | None) -> None:
        """Like `say`, for large numbers of things: those without a problem are not stored."""
        if why is not None or name in self._all:
            self.say(name, why)
        if why is None:
            self.forget(name)

    def forget(self, name: str) -> None:
        with self._telling:
            self._all = {key: value for key, value in self._all.items() if key != name}

    def all(self) -> dict[str, Condition]:
        return self._all


class Routine:
    """Acts by name, done in order at every turn.

    Guarantee: whatever exception one raises, the others are done, and the next turn comes; it is said in `conditions`
    until the act succeeds.
    """

    def __init__(
        self,
        acts: dict[str, Callable[[], None]],
        *,
        conditions: Conditions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._acts = acts
        self._clock = clock
        self._not_before: dict[str, float] = {}
        self.conditions = conditions or Conditions()

    def turn(self) -> None:
        for name, act in self._acts.items():
            if self._clock() < self._not_before.get(name, 0.0):
                continue
            try:
                act()
            except Exception as error:
                log.debug("a maintenance task failed", exc_info=True, extra={"duty": name})
                self.conditions.say(name, in_words(error))
                self._not_before[name] = self._clock() + RETRY_S
            else:
                self.conditions.say(name, None)


class Background:
    """A thread that takes a turn each time it is woken; wakes that come during one are one more turn.

    It does not hold up whoever wakes it, nor the end of the process.
    """

    def __init__(self, turn: Callable[[], None], *, name: str) -> None:
        self._turn = turn
        self._name = name
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """RuntimeError where the machine has no thread left; the next call tries again."""
        self._woken.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            self._turn()


def in_words(error: Exception) -> str:
    """A line for a person."""
    text = " ".join(str(error).split())
    return text if isinstance(error, SettingsError) else f"{type(error).__name__}: {text}"
