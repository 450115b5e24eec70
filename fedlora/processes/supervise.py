"""Keep a few processes alive: start in order, restart with back-off, stop together, say how they are.

One thread, one loop, and nothing in it waits for anybody; a child that exits is started again after a pause that
doubles with every quick death. A child's death never takes another with it, and neither does a log that cannot be
rotated, a folder that cannot be written or a machine that has no process left: that is said, and tried again.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

from fedlora.processes.duties import Conditions, in_words
from fedlora.processes.json_logs import rotate
from fedlora.processes.living import Process, born, end, read_record, session_of, write_record

log = logging.getLogger("fedlora.supervise")

FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.5, 30.0, 60.0
STOP_S = 20.0
"""From SIGTERM to SIGKILL, for all children together: less than the 30 s that a container is given to stop."""
LOOK_S, LOOK_AT_LOGS_S = 1.0, 5.0
"""How often a child that does its work is asked whether it still does, and how often a log is measured."""
NOT_RUNNING = "it is not running"


@dataclass(frozen=True)
class Child:
    """A process to keep alive."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    """Where its output goes; this process's own output when not given."""
    lacks: Callable[[int], str | None] = lambda pid: None
    """What the process with this pid is still waiting for, as text; None: it is ready. For the health report, and
    checked before the next child is started."""

    before: Callable[[], object] = lambda: None
    """Done before every start; what it raises is logged, and the child is started all the same."""


@dataclass
class Running:
    """One child's life so far."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    quick_deaths: int = 0
    started_at: float = 0.0
    next_start: float = 0.0
    last_exit: int | None = None
    lacks: str | None = NOT_RUNNING
    kill_at: float = math.inf
    """It was asked to stop, and is ended if it has not by then."""
    look_at: float = 0.0
    rotate_at: float = 0.0

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts `children` in order and keeps them alive until `stop` is called or a signal comes.

    `record`: a file in which it writes whom it has started, so that the next one can end what a kill -9 left behind.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        record: Path | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        self._all = {child.name: Running(child) for child in children}
        self._tick = tick
        self._clock = clock
        self._record = record
        self._stopping = False
        self.conditions = conditions or Conditions()

    def run(self, *, poll_s: float = 0.2) -> None:
        """Until a signal (SIGTERM, SIGINT) or `stop`; then stop all children, the last one first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._record is not None:
            end_orphans(self._record)
        try:
            while not self._stopping:
                self._try("supervisor", self.step)
                self._try("tick", self._tick)
                time.sleep(poll_s)
        finally:
            self.stop_children()

    def step(self) -> None:
        """Look at every child once: reap the dead, start what is due, in order."""
        for running in self._all.values():
            self._reap(running)
            self._end_if_overdue(running)
            if running.child.log is not None:
                self._rotate(running, running.child.log)
        for running in self._all.values():
            if running.process is None and self._clock() >= running.next_start:  # reaped: its end is counted and told
                self._try(f"start of {running.child.name}", partial(self._start, running))
            self._look(running)
            if running.lacks is not None:
                break  # those after it need it

    def stop(self) -> None:
        """Leave `run` at its next turn."""
        self._stopping = True

    def restart(self, name: str) -> None:
        """Ask a child to stop; the loop starts it again at once, and ends one that has not stopped after STOP_S."""
        running = self._all[name]
        if running.alive and running.process is not None:
            running.started_at = -STEADY_S  # asked for, so not a quick death
            running.kill_at = min(running.kill_at, self._clock() + STOP_S)
            running.process.terminate()

    def pid(self, name: str) -> int | None:
        """Of a child that is alive."""
        running = self._all[name]
        return running.process.pid if running.alive and running.process else None

    def kill(self, name: str) -> None:
        """End a child that no longer listens to anything; the loop starts it again."""
        running = self._all[name]
        if running.alive and running.process is not None:
            running.process.kill()

    def health(self) -> dict[str, dict[str, object]]:
        """For the health endpoint: is each alive and ready, how often it was started, how it last ended."""
        return {
            name: {
                "alive": running.alive,
                "ready": running.alive and running.lacks is None,
                "lacks": running.lacks,
                "pid": self.pid(name),
                "starts": running.starts,
                "last_exit": running.last_exit,
            }
            for name, running in self._all.items()
        }

    def stop_children(self) -> None:
        """SIGTERM to all, SIGKILL to those that are still there after a while."""
        living = [r.process for r in reversed(self._all.values()) if r.process is not None and r.alive]
        if living:
            log.info("stopping", extra={"children": len(living), "at_most_s": STOP_S})
        for process in living:
            process.terminate()
        give_up = time.monotonic() + STOP_S
        for process in living:
            try:
                process.wait(max(0.0, give_up - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _try(self, what: str, act: Callable[[], object]) -> None:
        """Do it; an exception is said, under that name, until it is done again without one."""
        try:
            act()
        except Exception as error:
            self.conditions.say(what, in_words(error))
        else:
            self.conditions.say(what, None)

    def _rotate(self, running: Running, path: Path) -> None:
        if self._clock() >= running.rotate_at:
            running.rotate_at = self._clock() + LOOK_AT_LOGS_S
            self._try(f"log of {running.child.name}", partial(rotate, path))

    def _look(self, running: Running) -> None:
        """Ask a child what it lacks; one that lacks nothing about once a second, for asking has a price."""
        if not running.alive or running.process is None:
            running.lacks = NOT_RUNNING
        elif running.lacks is not None or self._clock() >= running.look_at:
            running.look_at = self._clock() + LOOK_S
            try:
                running.lacks = running.child.lacks(running.process.pid)
            except Exception as error:
                running.lacks = in_words(error)

    def _start(self, running: Running) -> None:
        child = running.child
        try:
            child.before()
        except Exception:
            log.exception("the preparation of a start failed", extra={"child": child.name})
        output = self._output_of(child)
        command = [sys.executable, "-m", "fedlora.processes.die_with_parent", str(os.getpid()), *child.command]
        try:
            running.process = subprocess.Popen(
                command,
                env={**os.environ, **child.environment},
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:  # no process or no descriptor left
            self._put_off(running)
            raise
        finally:
            if output is not None:
                output.close()
        running.starts += 1
        running.kill_at = math.inf
        running.started_at = self._clock()
        log.info("started", extra={"child": child.name, "pid": running.process.pid, "starts": running.starts})
        self._try("record of processes", self._write_record)

    def _output_of(self, child: Child) -> IO[bytes] | None:
        """Its log; this process's own output where the log cannot be opened: rather that than no child."""
        if child.log is None:
            return None
        try:
            return child.log.open("ab")
        except OSError as error:
            log.warning("a log cannot be opened", extra={"child": child.name, "why": in_words(error)})
            return None

    def _write_record(self) -> None:
        if self._record is not None:
            pids = {name: pid for name in self._all if (pid := self.pid(name)) is not None}
            write_record(self._record, {name: Process(pid, born(pid) or "") for name, pid in pids.items()})

    def _reap(self, running: Running) -> None:
        if running.process is None or running.alive:
            return
        status = running.process.returncode
        running.process, running.last_exit = None, status
        if self._clock() - running.started_at < STEADY_S:
            self._put_off(running)
        else:
            running.quick_deaths, running.next_start = 0, self._clock()
        pause = running.next_start - self._clock()
        log.warning("exited", extra={"child": running.child.name, "status": status, "restart_in_s": pause})

    def _end_if_overdue(self, running: Running) -> None:
        if running.alive and running.process is not None and self._clock() >= running.kill_at:
            running.kill_at = math.inf
            log.warning("a process did not stop when asked", extra={"child": running.child.name})
            running.process.kill()

    def _put_off(self, running: Running) -> None:
        """The next start, later with every death or failure that followed a start quickly."""
        running.quick_deaths += 1
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (running.quick_deaths - 1))
        running.next_start = self._clock() + pause


def end_orphans(record: Path) -> None:
    """End what an earlier supervisor of this folder, killed, has left behind: its children and theirs."""
    left = {member for process in read_record(record).values() for member in session_of(process)}
    for process in end(left, patience_s=STOP_S):
        log.warning("a process of an earlier supervisor was stopped", extra={"pid": process.pid})
