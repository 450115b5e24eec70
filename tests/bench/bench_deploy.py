"""Overhead of a deployment: an empty round with the warm executor, with Flower's stock one, and on the LocalGrid.

One coordinator, two agents that differ in nothing but `executor`, rounds interleaved; CPU seconds are of the agent's
whole process tree, so they do not depend on what else the machine does.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path

import yaml

from client.deployed import app as client
from fedlora.config import Recipe
from fedlora.deployment.environment import QUIET
from server.flower.control import Control
from server.runs.bundle import PYPROJECT
from server.runs.submissions import completed_rounds
from server.trust.provision import read_registry
from simulations.data.site_files import write_site_files
from simulations.deployment import Deployment, make_deployment
from simulations.local_grid import LocalGrid, run_apps
from tests.bench.empty_round import app as server
from tests.federations import save_messages, save_tiny_model, tiny_recipe

ROUNDS = 8
REST_S = 15.0
PATIENT = ("rounds.quorum=1.0", "rounds.deadline_s=240", "rounds.wait_s=240")
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
        try:
            lines = Path(f"/proc/{member}/smaps_rollup").read_text().splitlines()
        except ProcessLookupError:  # a process of one message has just ended
            continue
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(str(folder / "model"), str(folder / "messages.csv"), *overrides)


def deploy(folder: Path) -> Deployment:
    save_tiny_model(folder / "model")
    save_messages(folder / "messages.csv")
    write_site_files(recipe_of(folder), folder / "data")
    policy = {"require_privacy": False}
    deployment = make_deployment(folder, sites=SITES, data=folder / "data", labels=("bad", "good"), policy=policy)
    config = folder / "green" / "client.yaml"
    values = {**yaml.safe_load(config.read_text()), "executor": "stock", "allow_bundles": "any"}
    config.write_text(yaml.safe_dump(values))
    return deployment


def first_round_s(deployment: Deployment, folder: Path, site: str) -> float:
    """Seconds from a site's `client up` until a round in which it trained is complete. The run is already waiting."""
    clients = len(deployment.processes)  # the coordinator counts for the site that is to be started
    recipe = recipe_of(folder, "rounds.count=1", f"rounds.min_clients={clients}", *PATIENT)
    run = deployment.submit(recipe, name=f"first-{site}")
    give_up = time.monotonic() + 900
    while not (log := run / "run.log").exists() or "waiting for clients" not in log.read_text():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{run} does not wait for clients")
        time.sleep(0.2)
    started = time.monotonic()
    deployment.start(site)
    while not completed_rounds(run):
        if time.monotonic() > give_up:
            raise TimeoutError(f"{run}: no round was completed")
        time.sleep(0.05)
    seconds = time.monotonic() - started
    deployment.wait_run(run, timeout_s=60)
    return seconds


def measure(deployment: Deployment, folder: Path) -> dict[str, dict[str, float]]:
    """By site: median seconds and CPU seconds (above those at rest) of an empty round; memory and CPU at rest."""
    bundle, out = folder / "bundle", folder / "seconds.json"
    bundle.mkdir()
    text = PYPROJECT.format(name="empty-rounds", run="none").replace("server.deployed", "tests.bench.empty_round")
    (bundle / "pyproject.toml").write_text(f'{text}rounds = {ROUNDS}\nnodes = {len(SITES)}\nout = "{out}"\n')
    idle = {site: cpu_s(deployment.processes[site].pid) for site in SITES}
    time.sleep(REST_S)
    idle = {site: (cpu_s(deployment.processes[site].pid) - idle[site]) / REST_S for site in SITES}
    rest = {site: resident_mib(deployment.processes[site].pid) for site in SITES}
    before = {site: cpu_s(deployment.processes[site].pid) for site in SITES}
    started = time.monotonic()
    Control(deployment.settings).submit(bundle)
    while not out.exists():
        if time.monotonic() - started > 1200:
            raise TimeoutError("the empty rounds did not end")
        time.sleep(0.5)
    wall = time.monotonic() - started
    used = {site: cpu_s(deployment.processes[site].pid) - before[site] - idle[site] * wall for site in SITES}
    registry = read_registry(deployment.settings)
    by_site = {str(registry.name_of(int(node))): seconds for node, seconds in json.loads(out.read_text()).items()}
    return {
        site: {
            "round_s": statistics.median(by_site[site][1:]),
            "cpu_s": used[site] / ROUNDS,
            "rest_mib": rest[site],
            "rest_cpu": idle[site],
        }
        for site in SITES
    }


def local_round_s() -> float:
    """The same rounds in one process."""
    logging.getLogger("client.deployed").setLevel(logging.CRITICAL)  # a message that is no task is what is sent
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
            deployment.start("server")
            deployment.wait_ready("server", timeout_s=180)
            first_s = {site: first_round_s(deployment, folder, site) for site in SITES}
            found = measure(deployment, folder)
    local_s = local_round_s()
    print("| | empty round (s, median) | CPU seconds a round | MiB at rest | CPU at rest | first round |")
    print("|---|---|---|---|---|---|")
    for site, name in zip(SITES, ("warm executor", "stock executor"), strict=True):
        row = found[site]
        print(
            f"| {name} | {row['round_s']:.2f} | {row['cpu_s']:.2f} | {row['rest_mib']:.0f} | {row['rest_cpu']:.1%} | "
            f"{first_s[site]:.1f} s after `client up` |"
        )
    print(f"| LocalGrid | {local_s:.4f} | | | | |")
    warm, stock = found["blue"], found["green"]
    print(
        f"\nstock / warm: {stock['round_s'] / warm['round_s']:.1f} in time, {stock['cpu_s'] / warm['cpu_s']:.1f} in CPU"
    )
    print(f"warm / LocalGrid: {warm['round_s'] / local_s:.0f} in time")


if __name__ == "__main__":
    main()
