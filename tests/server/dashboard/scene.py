"""A store with real runs in it, and a real dashboard in front of it: what the tests in a browser look at."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from flwr.app import Message

from fedlora.config import Recipe
from fedlora.units_path import units_folder
from server.dashboard.doors.access import Access, Role, access_path
from simulations.local_grid import FIRST_NODE, Fault
from simulations.run import prepare, simulate
from tests.federations import save_messages, save_tiny_model, tiny_recipe

PASSWORD = "correct horse battery"
START_S = 120.0


@dataclass(frozen=True)
class Scene:
    """Where everything is."""

    folder: Path
    url: str
    link: str

    @property
    def store(self) -> Path:
        return self.folder / "runs" / "fedlora.db"


def tiny(folder: Path, *overrides: str) -> Recipe:
    """The tiny federation, its model and messages made once."""
    model, source = folder / "data" / "model", folder / "data" / "messages.csv"
    if not source.exists():
        save_tiny_model(model, hidden=128)
        save_messages(source)
    return tiny_recipe(str(model), str(source), *overrides)


def now_and_then() -> Callable[[int, Message], Fault | None]:
    """Clients that fail or stay away: by client, and by how often each was asked before."""
    asked: Counter[int] = Counter()

    def fault(node: int, message: Message) -> Fault | None:
        client, asked[node] = node - FIRST_NODE, asked[node] + 1
        if (client, asked[node]) in {(0, 3), (2, 5), (2, 6)}:
            return Fault("error")
        return Fault("drop") if (client, asked[node]) in {(1, 4), (3, 9)} else None

    return fault


RUNS: dict[str, tuple[str, ...]] = {
    "fedit": ("strategy.name=fedit", "rounds.count=12"),
    "fedsvd": (
        "rounds.count=12",
        "wire.codec=int4",
        "rounds.min_clients=2",
        "rounds.quorum=0.5",
        "rounds.deadline_s=1",
    ),
    "private": ("privacy.epsilon=3", "rounds.count=6", "privacy.report_metrics=true"),
    "seeded": ("privacy.noise_multiplier=1", "privacy.insecure_seed=4", "rounds.count=2"),
}


def fill(folder: Path) -> None:
    """Runs of all kinds, one after the other, each by the code that runs them anywhere."""
    for name, overrides in RUNS.items():
        faults = now_and_then() if name == "fedsvd" else None
        recipe = tiny(folder, f"name={name}", "train.lr=0.05", *overrides)
        out = folder / "runs" / name
        simulate(
            prepare(recipe), out, watch=lambda event: None, faults=faults, store=str(folder / "runs" / "fedlora.db")
        )


@contextmanager
def dashboard(folder: Path, *options: str) -> Iterator[Scene]:
    """`fedlora dashboard` in a process of its own, with a user for every role."""
    store = folder / "runs" / "fedlora.db"
    access = Access(access_path(str(store)))
    for role in Role:
        access.add_user(role.value, role, PASSWORD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "dashboard.log"
    (folder / "data").mkdir(exist_ok=True)
    may = ["--allow-simulations", "--files", str(folder / "data")]
    where = ["--store", str(store), "--port", str(port)]
    command = [sys.executable, "-u", "-m", "fedlora", "dashboard", *where, *may, *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, env=ours()) as process,
    ):
        try:
            yield Scene(folder, f"http://127.0.0.1:{port}", link_in(log, process, port))
        finally:
            process.terminate()
            process.wait(timeout=20)


def ours() -> dict[str, str]:
    """The environment of a process that works elsewhere and imports this tree."""
    return {**os.environ, "PYTHONPATH": str(units_folder())}


def link_in(log: Path, process: subprocess.Popen[bytes], port: int) -> str:
    """The link that the dashboard prints, once it listens."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"https?://\S+/enter\S+", log.read_text())
        if found is not None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return found.group()
        time.sleep(0.1)
    raise AssertionError(f"the dashboard did not come up: {log.read_text()}")


@contextmanager
def simulation(scene: Scene, name: str, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fedlora simulate` in a process of its own, while the dashboard looks on."""
    path = scene.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tiny(scene.folder, f"name={name}", *overrides).model_dump(mode="json")))
    simulate = ["simulate", str(path), "--out", str(scene.folder / "runs" / name)]
    command = ["nice", "-n", "10", sys.executable, "-m", "fedlora", *simulate]  # who looks on comes first
    with (scene.folder / f"{name}.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=scene.folder, env=ours())
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)
