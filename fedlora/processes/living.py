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

from fedlora.files import write_atomically

POLL_S = 0.05
KILLED_S = 5.0
"""A killed process is gone at once, unless a disk holds it; it is waited for no longer."""
STATE, SESSION, STARTED = 0, 3, 19  # fields of /proc/PID/stat after the name


@dataclass(frozen=True)
class Process:
    """One life of one process."""

    pid: int
    born: str
    """As `born` says it."""


def born(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None if there is none (or it is a zombie)."""
    fields = _stat(pid)
    return None if fields is None or fields[STATE] in "ZX" else fields[STARTED]


def is_alive(process: Process) -> bool:
    return born(process.pid) == process.born


def environment_of(process: Process, name: str) -> str | None:
    """Value of an environment variable at the process's start; None if it had none or it cannot be read."""
    try:
        variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    begins = f"{name}=".encode()
    return next((os.fsdecode(found[len(begins) :]) for found in variables if found.startswith(begins)), None)


def session_of(process: Process) -> list[Process]:
    """A session's leader that is alive, and whoever belongs to it; nobody where there is no such leader any more."""
    if not is_alive(process):
        return []
    members = [process]
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        fields = _stat(pid)
        if fields is not None and fields[SESSION] == str(process.pid) and pid != process.pid:
            members.append(Process(pid, fields[STARTED]))
    return members


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


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
