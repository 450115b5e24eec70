"""Keep a few processes alive: start in order, restart with back-off, stop together, say how they are.

One thread, one loop; a child that exits is started again after a pause that doubles with every quick death. A child's
death never takes another with it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

log = logging.getLogger("fedlora.supervise")

FIRST_PAUSE_S, LONGEST_PAUSE_S, STEADY_S = 0.5, 30.0, 60.0
STOP_S = 10.0
ROTATE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Child:
    """A process to keep alive."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    """Where its output goes; this process's own output when not given."""
    ready: Callable[[], bool] = lambda: True
    """Whether it does its work, not only lives: asked for the health report and before the next child is started."""

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

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Starts `children` in order and keeps them alive until `stop` is called or a signal comes."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        tick: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._all = {child.name: Running(child) for child in children}
        self._tick = tick
        self._clock = clock
        self._stopping = False

    def run(self, *, poll_s: float = 0.2) -> None:
        """Until a signal (SIGTERM, SIGINT) or `stop`; then stop all children, the last one first."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        try:
            while not self._stopping:
                self.step()
                self._tick()
                time.sleep(poll_s)
        finally:
            self.stop_children()

    def step(self) -> None:
        """Look at every child once: reap the dead, start what is due, in order."""
        for running in self._all.values():
            self._reap(running)
            if running.child.log is not None:
                rotate(running.child.log)
        for running in self._all.values():
            if not running.alive and self._clock() >= running.next_start:
                self._start(running)
            if not (running.alive and running.child.ready()):
                return  # those after it need it

    def stop(self) -> None:
        """Leave `run` at its next turn."""
        self._stopping = True

    def restart(self, name: str) -> None:
        """Ask a child to stop; the loop starts it again at once."""
        running = self._all[name]
        if running.alive and running.process is not None:
            running.started_at = -STEADY_S  # asked for, so not a quick death
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
                "ready": running.alive and running.child.ready(),
                "pid": self.pid(name),
                "starts": running.starts,
                "last_exit": running.last_exit,
            }
            for name, running in self._all.items()
        }

    def stop_children(self) -> None:
        """SIGTERM to all, SIGKILL to those that are still there after a while."""
        living = [r.process for r in reversed(self._all.values()) if r.process is not None and r.alive]
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

    def _start(self, running: Running) -> None:
        child = running.child
        try:
            child.before()
        except Exception:
            log.exception("what is done before a start failed", extra={"child": child.name})
        output = None
        if child.log is not None:
            output = child.log.open("ab")
        command = [sys.executable, "-m", "fedlora.leash", str(os.getpid()), *child.command]
        try:
            running.process = subprocess.Popen(
                command,
                env={**os.environ, **child.environment},
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()
        running.starts += 1
        running.started_at = self._clock()
        log.info("started", extra={"child": child.name, "pid": running.process.pid, "starts": running.starts})

    def _reap(self, running: Running) -> None:
        if running.process is None or running.alive:
            return
        status = running.process.returncode
        running.process, running.last_exit = None, status
        quick = self._clock() - running.started_at < STEADY_S
        running.quick_deaths = running.quick_deaths + 1 if quick else 0
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** max(0, running.quick_deaths - 1)) if quick else 0.0
        running.next_start = self._clock() + pause
        log.warning("exited", extra={"child": running.child.name, "status": status, "restart_in_s": pause})


def rotate(path: Path) -> None:
    """Keep one older log. It is copied and then emptied, for the child holds it open, and appends; a line that comes in
    between is lost."""
    if path.exists() and path.stat().st_size > ROTATE_BYTES:
        shutil.copyfile(path, path.with_suffix(".log.1"))
        os.truncate(path, 0)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and whatever else was given."""

    STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        extra = {key: value for key, value in vars(record).items() if key not in self.STANDARD}
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_json_lines() -> None:
    """Structured logs on standard error, for the long-running commands."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
