"""Processes identified by pid and start time: a pid alone is reused sooner or later."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from fedlora.files import write_atomically

POLL_S = 0.05
KILLED_S = 5.0
"""A killed process is gone at once, unless a disk holds it; it is waited for no longer."""
PROC = Path("/proc")
STATE, STARTED = 0, 19  # fields of /proc/PID/stat after the name


@dataclass(frozen=True)
class Process:
    """One life of one process."""

    pid: int
    born: str
    """As `born` says it."""


def born(pid: int) -> str | None:
    """When a process was started; None if there is none (or it is a zombie).

    On Linux in clock ticks since boot: psutil's time of day moves there with every step of the machine's clock, and a
    process that lives on would be another. Elsewhere the kernel keeps the time of day, and it is that.
    """
    try:
        if PROC.exists():
            fields = (PROC / f"{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return None if fields[STATE] in "ZX" else fields[STARTED]
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except (OSError, ValueError, psutil.Error):  # ValueError: a pid below 0, of a damaged record
        return None


def is_alive(process: Process) -> bool:
    return born(process.pid) == process.born


def environment_of(process: Process, name: str) -> str | None:
    """Value of an environment variable at the process's start; None if it had none or it cannot be read."""
    try:
        value: str | None = psutil.Process(process.pid).environ().get(name)
    except (ValueError, psutil.Error):
        return None
    return value


def session_of(process: Process) -> list[Process]:
    """A session's leader that is alive, and whoever belongs to it; nobody where there is no such leader any more."""
    if not is_alive(process):
        return []
    found = ((pid, born(pid)) for pid in psutil.pids() if pid != process.pid and _session(pid) == process.pid)
    return [process, *(Process(pid, started) for pid, started in found if started is not None)]


def end(processes: Iterable[Process], *, patience_s: float) -> list[Process]:
    """SIGTERM to those that are alive, SIGKILL to those that still are after `patience_s`; returns whom it met.

    Guarantee: a process that was started at another time, under the same pid, gets no signal.
    """
    found = [process for process in processes if is_alive(process)]
    _signal(found, signal.SIGTERM)
    _signal(found, signal.SIGCONT)  # one that was stopped cannot listen
    _wait_gone(found, patience_s)
    _signal(found, signal.SIGKILL)
    _wait_gone(found, KILLED_S)
    return found


def write_record(path: Path, processes: Mapping[str, Process]) -> None:
    """Write down who was started, for whoever comes after a kill -9."""
    content = {"boot": _boot(), "processes": {name: asdict(process) for name, process in processes.items()}}
    write_atomically(path, json.dumps(content, indent=2).encode())


def read_record(path: Path) -> dict[str, Process]:
    """Who was started since this machine was; nobody where the record is missing, damaged or of an earlier boot."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["boot"] != _boot():
            return {}
        return {str(k): Process(int(v["pid"]), str(v["born"])) for k, v in content["processes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _wait_gone(processes: Iterable[Process], patience_s: float) -> None:
    give_up = time.monotonic() + patience_s
    while any(map(is_alive, processes)) and time.monotonic() < give_up:
        time.sleep(POLL_S)


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        if is_alive(process):
            with contextlib.suppress(OSError):  # it has just ended by itself
                os.kill(process.pid, number)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # it has just ended
        return None


def _boot() -> str:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
