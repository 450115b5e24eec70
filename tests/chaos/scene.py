"""Where faults happen, and the moments that they wait for: a charge, an answer, an upload that is under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedlora.privacy.ledger import LedgerFiles
from simulations.deployment import Deployment
from tests.chaos.clocks import Clocks
from tests.chaos.link import Link

MOMENT_S = 90.0
"""How long a fault waits for its moment; then it happens anyway, and the table says so."""


@dataclass(frozen=True)
class Scene:
    """`target` is the site that suffers; `slow` sits behind a link of 1 Mbit/s."""

    deployment: Deployment
    run: Path
    link: Link
    clocks: Clocks
    target: str
    slow: str

    def executor_pid(self) -> int | None:
        """The target's executor, waited for: it may just have been started again."""
        return self.deployment.child_pid(self.target, "executor", timeout_s=MOMENT_S)

    def serverapp_pid(self) -> int | None:
        """The run's ServerApp, waited for: the run may just have been submitted again."""
        wait_for(lambda: self.deployment.serverapp_pid(self.run) is not None)
        return self.deployment.serverapp_pid(self.run)

    def restart(self, name: str) -> None:
        """kill -9 and start again, as systemd would."""
        self.deployment.kill(name)
        self.deployment.start(name)

    def wait_charged(self) -> bool:
        """Until the target has charged its ledger: from here on it trains."""
        ledger = LedgerFiles(self.deployment.folder / self.target / "state", "default").ledger
        return wait_grown(ledger)

    def wait_answered(self) -> bool:
        """Until the ServerApp has taken up a site's answer: from here on it aggregates."""
        log = self.run / "run.log"
        before = answers(log)
        return wait_for(lambda: answers(log) > before)

    def wait_uploading(self, *, least_bytes: int) -> bool:
        """Until so much of the slow site's update has gone up, and more is to come."""
        return wait_for(lambda: self.link.burst_up >= least_bytes)


def answers(log: Path) -> int:
    return log.read_bytes().count(b'"client answered"') if log.exists() else 0


def wait_grown(path: Path) -> bool:
    def size() -> int:
        return path.stat().st_size if path.exists() else 0

    before = size()
    return wait_for(lambda: size() > before)


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time; looked at often, for the moment is short."""
    give_up = time.monotonic() + MOMENT_S
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True
