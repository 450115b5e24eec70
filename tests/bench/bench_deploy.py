"""Overhead of a deployment: an empty round with the warm executor, with Flower's stock one, and on the LocalGrid.

One coordinator, two agents that differ in nothing but `executor`, rounds interleaved; CPU seconds are of the agent's
whole process tree, so they do not depend on what else the machine does.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import yaml

from client.deployed import app as client
from fedlora.deployment import QUIET
from server.control import Control
from server.provision import read_registry
from server.submissions import PYPROJECT
from simulations.deployment import Deployment, make_deployment
from simulations.local_grid import LocalGrid, run_apps
from simulations.site_files import write_site_files
from tests.bench.empty_round import app as server
from tests.federations import save_messages, save_tiny_model, tiny_recipe

ROUNDS = 8
SITES = ("blue", "green")  # blue: warm, green: stock
TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in tree(int(child)))]


def cpu_s(pid: int) -> float:
    """CPU seconds of a tree, those of its ended children included."""
    total = 0
    for member in tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return total / TICKS


def resident_mib(pid: int) -> float:
    """Proportional resident memory of a tree: shared pages are counted once."""
    total = 0
    for member in tree(pid):
        lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def deploy(folder: Path) -> Deployment:
    recipe = tiny_recipe(save_tiny_model(folder / "model"), save_messages(folder / "messages.csv"))
    write_site_files(recipe, folder / "data")
    deployment = make_deployment(folder, sites=SITES, data=folder / "data", labels=("bad", "good"))
    config = folder / "green" / "client.yaml"
    values = {**yaml.safe_load(config.read_text()), "executor": "stock", "allow_bundles": "any"}
    config.write_text(yaml.safe_dump(values))
    return deployment


def measure(deployment: Deployment, folder: Path) -> dict[str, dict[str, float]]:
    """By site: median seconds and CPU seconds of an empty round, MiB at rest."""
    bundle, out = folder / "bundle", folder / "seconds.json"
    bundle.mkdir()
    text = PYPROJECT.format(name="empty-rounds", run="none").replace("server.deployed", "tests.bench.empty_round")
    (bundle / "pyproject.toml").write_text(f'{text}rounds = {ROUNDS}\nnodes = {len(SITES)}\nout = "{out}"\n')
    rest = {site: resident_mib(deployment.processes[site].pid) for site in SITES}
    before = {site: cpu_s(deployment.processes[site].pid) for site in SITES}
    started = time.monotonic()
    Control(deployment.settings).submit(bundle)
    while not out.exists():
        if time.monotonic() - started > 400:
            raise TimeoutError("the empty rounds did not end")
        time.sleep(0.5)
    used = {site: cpu_s(deployment.processes[site].pid) - before[site] for site in SITES}
    registry = read_registry(deployment.settings)
    by_site = {str(registry.name_of(int(node))): seconds for node, seconds in json.loads(out.read_text()).items()}
    return {
        site: {"round_s": statistics.median(by_site[site][1:]), "cpu_s": used[site] / ROUNDS, "rest_mib": rest[site]}
        for site in SITES
    }


def local_round_s() -> float:
    """The same rounds in one process."""
    with tempfile.TemporaryDirectory() as temporary:
        (Path(temporary) / "client.yaml").write_text("site: a\ncoordinator: x:1\ndata: {train: x.csv}\n")
        os.environ["FEDLORA_SITE"] = str(Path(temporary) / "client.yaml")
        out = Path(temporary) / "seconds.json"
        config = {"rounds": 20, "nodes": 2, "out": str(out)}
        run_apps(server, LocalGrid(client, nodes=2, run_config=config), config)
        return statistics.median(s for node in json.loads(out.read_text()).values() for s in node)


def main() -> None:
    os.environ.update(QUIET)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with deploy(folder) as deployment:
            started = time.monotonic()
            deployment.start_all()
            for name in ("server", *SITES):
                deployment.wait_ready(name, timeout_s=180)
            ready_s = time.monotonic() - started
            time.sleep(10)  # the executors' imports are part of rest, not of a round
            found = measure(deployment, folder)
    local_s = local_round_s()
    print("| | empty round (s, median) | CPU seconds a round | agent at rest (MiB) |\n|---|---|---|---|")
    for site, name in zip(SITES, ("warm executor", "stock executor"), strict=True):
        row = found[site]
        print(f"| {name} | {row['round_s']:.2f} | {row['cpu_s']:.2f} | {row['rest_mib']:.0f} |")
    print(f"| LocalGrid | {local_s:.4f} | | |")
    warm, stock = found["blue"], found["green"]
    print(
        f"\nstock / warm: {stock['round_s'] / warm['round_s']:.1f} in time, {stock['cpu_s'] / warm['cpu_s']:.1f} in CPU"
    )
    print(f"everything ready {ready_s:.0f} s after `up`")


if __name__ == "__main__":
    main()
