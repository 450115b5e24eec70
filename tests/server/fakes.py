"""A SuperLink, a supervisor and clocks for tests of the coordinator's duties; no process is started."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from server.deployment.up import Duties
from server.flower.control import Node, key_bytes


class FakeSupervisor:
    def __init__(self, *, pid: int | None = None) -> None:
        self.killed: list[str] = []
        self.restarted: list[str] = []
        self.pid = pid

    def health(self) -> dict[str, dict[str, Any]]:
        return {"superlink": {"ready": self.pid is not None, "pid": self.pid}}

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def restart(self, name: str) -> None:
        self.restarted.append(name)


class FakeControl:
    """A SuperLink's sites and runs; `registered` can be emptied, as a lost database does."""

    asked_at: float | None = None
    failures = 0

    def __init__(self) -> None:
        self.registered: dict[int, Node] = {}
        self.submitted: list[str] = []
        self.asked = 0

    def ping(self) -> None:
        """It answers."""

    def nodes(self) -> dict[int, Node]:
        self.asked += 1
        return dict(self.registered)

    def register(self, public_key: str) -> int:
        node = 100 + len(self.registered)
        self.registered[node] = Node(key_bytes(public_key), "registered")
        return node

    def submit(self, bundle: Path) -> str:
        self.submitted.append((bundle / "pyproject.toml").read_text())
        return str(len(self.submitted))

    def status(self, flower_run: str) -> str:
        return "running"

    def stop(self, flower_run: str) -> None:
        """It stops."""


class Clocks:
    """The wall clock can be set; the other one only runs."""

    ahead_s, monotonic_s = 0.0, 1000.0

    def time(self) -> float:
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        self.monotonic_s += 10.0
        self.ahead_s += 10.0
        return self.monotonic_s


def ticks(duties: Duties, supervisor: FakeSupervisor, count: int) -> None:
    """As `tick`, without the thread."""
    for _ in range(count):
        duties.look(supervisor)  # type: ignore[arg-type]  # as much of it as is used
        duties.flower.turn()


def wrong(duties: Duties) -> dict[str, str]:
    return {name: said.why for name, said in duties.conditions.all().items() if said.why is not None}
