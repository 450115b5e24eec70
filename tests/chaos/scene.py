"""Where faults happen, and the moments that they wait for: a charge, an answer, an upload that is under way."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlora.privacy.ledger import LedgerFiles
from fedlora.processes.living import Process, born, is_alive
from simulations.deployment import Deployment
from tests.chaos.clocks import Clocks
from tests.chaos.holds import Holds
from tests.chaos.link import Link
from tests.chaos.slowness import tree


class NotThereError(Exception):
    """The process that a fault is for did not come in time."""


@dataclass(frozen=True)
class Scene:
    """`target` is the site that suffers; `slow` sits behind a link of 1 Mbit/s."""

    deployment: Deployment
    run: Path
    link: Link
    clocks: Clocks
    holds: Holds
    target: str
    slow: str
    moment_s: float
    """How long a fault waits for its moment; then it happens anyway, and the table says so."""

    def child(self, name: str, child: str) -> Process:
        """One of its processes, waited for: it may just have been started again."""
        found: list[Process] = []

        def there() -> bool:
            pid = self.deployment.health(name).get(child, {}).get("pid")
            stamp = None if pid is None else born(pid)
            if stamp is not None:
                found.append(Process(pid, stamp))
            return stamp is not None

        if not self.wait_for(there, look_s=0.2):
            raise NotThereError(f"{name} had no {child}")
        return found[-1]

    def serverapp(self) -> Process:
        """The run's ServerApp, waited for: the run may just have been submitted again."""
        found: list[Process] = []

        def there() -> bool:
            pid = self.deployment.serverapp_pid(self.run)
            stamp = None if pid is None else born(pid)
            if pid is not None and stamp is not None:
                found.append(Process(pid, stamp))
            return stamp is not None

        if not self.wait_for(there):
            raise NotThereError("the run had no ServerApp")
        return found[-1]

    def supervisor(self, name: str) -> Process:
        pid = self.deployment.processes[name].pid
        return Process(pid, born(pid) or "")

    def all_of(self, name: str) -> list[Process]:
        """The supervisor, its children and theirs."""
        return [Process(pid, born(pid) or "") for pid in tree([self.deployment.processes[name].pid])]

    def end(self, process: Process, number: signal.Signals) -> bool:
        """Send it, and whether the process is gone then."""
        os.kill(process.pid, number)
        return self.wait_gone([process])

    def wait_gone(self, processes: Iterable[Process]) -> bool:
        waited = list(processes)
        return self.wait_for(lambda: not any(map(is_alive, waited)), look_s=0.05)

    def wrong(self, name: str) -> dict[str, str]:
        """What /healthz says is wrong, by duty; nothing while it does not answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.deployment.health_ports[name]}/healthz", timeout=3
            ) as it:
                values = json.loads(it.read())
        except urllib.error.HTTPError as error:
            values = json.loads(error.read())
        except OSError:
            return {}
        return {duty: said["why"] for duty, said in values["duties"].items() if not said["ok"]}

    def failures(self, site: str, *, since: int) -> list[str]:
        """Codes of the failed answers of a site in the run's log, from this byte on."""
        with (self.run / "run.log").open("rb") as file:
            file.seek(since)
            lines = file.read().decode().splitlines()
        said = [line for line in map(as_json, lines) if line.get("event") == "client answered"]
        return [line["code"] for line in said if line["client"] == site and line["code"]]

    def wait_charged(self) -> bool:
        """Until the target has charged its ledger: from here on it trains."""
        ledger = LedgerFiles(self.deployment.folder / self.target / "state", "default").ledger
        before = size(ledger)
        return self.wait_for(lambda: size(ledger) > before)

    def wait_answered(self) -> bool:
        """Until the ServerApp has taken up a site's answer: from here on it aggregates."""
        log = self.run / "run.log"
        before = answers(log)
        return self.wait_for(lambda: answers(log) > before)

    def wait_uploading(self, *, least_bytes: int) -> bool:
        """Until so much of the slow site's update has gone up, and more is to come."""
        return self.wait_for(lambda: self.link.burst_up >= least_bytes)

    def wait_for(self, condition: Callable[[], bool], *, look_s: float = 0.005, at_least_s: float = 0.0) -> bool:
        """Whether it came true in time; looked at often, for the moment is short."""
        give_up = time.monotonic() + max(self.moment_s, at_least_s)
        while not condition():
            if time.monotonic() > give_up:
                return False
            time.sleep(look_s)
        return True


def answers(log: Path) -> int:
    return log.read_bytes().count(b'"client answered"') if log.exists() else 0


def as_json(line: str) -> dict[str, Any]:
    """{} for a line that is still being written."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return found


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
