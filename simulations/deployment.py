"""A whole deployment on this machine's loopback: real processes, real TLS, real enrolment. For the demo, tests, chaos.

python -m simulations.deployment --out runs/deployment       (make deploy-demo)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.deployment.agent import free_ports
from client.deployment.enroll import accept, ask
from fedlora.config import Recipe, load
from fedlora.deployment.environment import QUIET
from fedlora.plain_yaml import yaml_text
from fedlora.processes.living import born
from fedlora.settings import read_mapping
from fedlora.tasks.registry import task_named
from fedlora.units_path import units_folder
from server.record.lines import read_records
from server.runs.submissions import completed_rounds, state_of, submit
from server.settings import ServerSettings, load_server
from server.trust.provision import approve, initialise
from simulations.data.site_files import write_site_files

MODEST = {"OMP_NUM_THREADS": "1"}  # many processes share this machine's cores
DEMO_RECIPE = Path(__file__).parent / "recipes" / "fedsvd.yaml"
LET_IN = "SuperNode ID"
"""Log text of Flower's SuperNode when the coordinator has accepted it."""


@dataclass
class Deployment:
    """A coordinator and its sites in one folder; `stop` must be called, whatever happens (it is a context manager)."""

    folder: Path
    settings: ServerSettings
    sites: tuple[str, ...]
    health_ports: Mapping[str, int]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    environment: Callable[[str], Mapping[str, str]] = lambda name: {}
    """More environment for the coordinator (`server`) or a site, by name."""

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self, *names: str) -> None:
        """Start the coordinator (`server`) or a site's agent, as their administrators would."""
        units = str(units_folder())
        for name in names:
            unit = "server" if name == "server" else "client"
            config = self.folder / name / f"{unit}.yaml"
            with (self.folder / f"{name}.log").open("ab") as output:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "fedlora", unit, "up", "--config", str(config)],
                    env={**os.environ, **QUIET, **MODEST, "PYTHONPATH": units, **self.environment(name)},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )

    def start_all(self) -> None:
        self.start("server", *self.sites)

    def stop(self) -> None:
        """Stop everything; no process remains."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_one(self, name: str) -> None:
        """The coordinator or an agent, as its administrator would."""
        self.processes[name].terminate()
        self.processes[name].wait(60)

    def kill(self, name: str) -> None:
        """kill -9 of a whole agent or coordinator: its children die with it."""
        self.processes[name].kill()
        self.processes[name].wait()

    def child_pid(self, name: str, child: str, *, timeout_s: float = 60.0) -> int | None:
        """One of its processes, after waiting for it: it may be restarting, or its supervisor too busy to answer."""
        give_up = time.monotonic() + timeout_s
        while (pid := self.health(name).get(child, {}).get("pid")) is None and time.monotonic() < give_up:
            time.sleep(0.2)
        return None if pid is None else int(pid)

    def kill_child(self, name: str, child: str) -> None:
        """kill -9 of one of its processes. TimeoutError if there is none."""
        pid = self.child_pid(name, child)
        if pid is None:
            raise TimeoutError(f"{name} has no process {child!r} to kill: {self.health(name)}")
        os.kill(pid, signal.SIGKILL)

    def health(self, name: str) -> dict[str, dict[str, Any]]:
        """State of the processes from /healthz; {} while it does not answer."""
        try:
            url = f"http://127.0.0.1:{self.health_ports[name]}/healthz"
            with urllib.request.urlopen(url, timeout=3) as answer:
                values = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            values = json.loads(error.read())
        except OSError:
            return {}
        found: dict[str, dict[str, Any]] = values["processes"]
        return found

    def wait_ready(self, name: str, *, timeout_s: float = 90.0) -> None:
        """Until all its processes are ready; TimeoutError with what they say."""
        give_up = time.monotonic() + timeout_s
        while not (parts := self.health(name)) or not all(part["ready"] for part in parts.values()):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{name} is not ready after {timeout_s:.0f} s: {parts}")
            time.sleep(0.3)

    def let_in(self, site: str) -> int:
        """How often the coordinator has let its SuperNodes in."""
        log = self.folder / site / "logs" / "supernode.log"
        return log.read_text().count(LET_IN) if log.exists() else 0

    def wait_let_in(self, site: str, *, after: int = 0, timeout_s: float = 240.0) -> None:
        """Until it was let in more often than `after`: one that comes before the coordinator has registered it, or
        whose predecessor counts as online, ends first, and its supervisor starts another. TimeoutError."""
        give_up = time.monotonic() + timeout_s
        while self.let_in(site) <= after:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{site} is not connected after {timeout_s:.0f} s:  {self.health(site)}")
            time.sleep(0.2)

    def submit(self, recipe: Recipe, *, name: str) -> Path:
        return submit(self.settings, recipe, name=name)

    def wait_run(self, folder: Path, *, timeout_s: float) -> None:
        """Until the run is finished; TimeoutError or RuntimeError with the log's end otherwise."""
        give_up = time.monotonic() + timeout_s
        while (state := state_of(folder)) != "finished":
            if time.monotonic() > give_up or state == "gave-up":
                log = folder / "run.log"
                tail = log.read_text()[-2000:] if log.exists() else "(no log)"
                raise TimeoutError(f"{folder.name} is {state}, {completed_rounds(folder)} rounds:\n{tail}")
            time.sleep(0.3)

    def serverapp_pid(self, folder: Path) -> int | None:
        """The ServerApp at work on a run."""
        try:
            status = json.loads((folder / "status.json").read_text())
        except (OSError, ValueError):
            return None
        alive = status["state"] == "running" and born(status["pid"]) == status["born"]
        return int(status["pid"]) if alive else None


def make_deployment(
    folder: Path,
    *,
    sites: Sequence[str],
    data: Path,
    labels: Sequence[str],
    policy: Mapping[str, Any] | None = None,
    client: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
) -> Deployment:
    """Provision a coordinator and enrol the sites; `data` holds what `write_site_files` wrote. Nothing is started.

    `policy`, `client` and `server` are more settings for the files of those names. All the data are the caller's own:
    unless `policy` says otherwise, its sites load any base model that a run names.
    """
    folder, data = folder.resolve(), data.resolve()
    fleet, control, *health = free_ports(3 + len(sites))
    initialise(folder / "server", name="demo-net", address=f"127.0.0.1:{fleet}")
    ports = dict(zip(("server", *sites), health, strict=True))
    held_out = data / "held-out.csv"
    _update(
        folder / "server" / "server.yaml",
        {
            "listen": f"127.0.0.1:{fleet}",
            "control_port": control,
            "health_port": ports["server"],
            "labels": list(labels),
            **({"held_out": {"file": str(held_out)}} if held_out.exists() else {}),
            **(server or {}),
        },
    )
    settings = load_server(folder / "server" / "server.yaml")
    for site in sites:
        grant = approve(settings, ask(folder / site, site=site))
        accept(folder / site, grant, train=data / site / "train.csv")
        files = {"train": str(data / site / "train.csv"), "test": str(data / site / "test.csv")}
        written = read_mapping(folder / site / "client.yaml", "client.yaml")["data"]
        mine = {"health_port": ports[site], "data": {**written, **files}, **(client or {})}
        _update(folder / site / "client.yaml", mine)
        _update(folder / site / "policy.yaml", {"base_models": "any", **(policy or {})})
    return Deployment(folder, settings, tuple(sites), ports)


def demo(out: Path) -> None:
    """Two airlines, three rounds of FedSVD, over gRPC with TLS."""
    recipe = load(DEMO_RECIPE, ["rounds.count=3", "rounds.evaluate_every=1", "rounds.min_clients=2"])
    names = write_site_files(recipe, out / "data")[:2]
    labels = ("negative", "neutral", "positive")
    policy = {"require_privacy": False, "base_models": [recipe.model.id]}
    deployment = make_deployment(out, sites=names, data=out / "data", labels=labels, policy=policy)
    with deployment:
        print(f"starting a coordinator at {deployment.settings.address} and agents for {', '.join(names)}")
        deployment.start_all()
        run = deployment.submit(recipe, name="demo")
        deployment.wait_run(run, timeout_s=600)
    judged_by = task_named(recipe.model.task).compare_by
    for record in read_records(run):
        score = "-" if record.evaluation is None else f"{record.evaluation.value(judged_by.name):.3f}"
        print(f"round {record.round}: {judged_by.words} {score}, {record.bytes_up} bytes up")
    print(f"the adapter is in {run / 'adapter'}")


def _update(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(yaml_text({**read_mapping(path, str(path)), **values}), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=demo.__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/deployment"))
    demo(parser.parse_args().out)
