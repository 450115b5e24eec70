"""What one more client costs: connected to a coordinator, and simulated in one process. Empty messages, real transport.

    python -m tests.bench.bench_scale                # 2, 8 and 24 SuperNodes; 10 to 100,000 simulated clients
    python -m tests.bench.bench_scale --rounds       # only whole rounds of many simulated clients (`many_clients.py`)
    python -m tests.bench.bench_scale --rounds --against FOLDER     # and the same in another tree, turn by turn

A deployed client costs its coordinator memory and CPU seconds, at rest and per message; both are slopes between the
fewest and the most SuperNodes, so what a coordinator costs by itself is not in them. CPU seconds are those of the
coordinator's whole process tree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.deployment.agent import children, free_port
from client.settings import load_client
from fedlora.deployment.environment import QUIET
from fedlora.deployment.private_files import write_private
from server.flower.control import Control
from server.runs.bundle import PYPROJECT
from simulations.deployment import Deployment, make_deployment
from simulations.local_grid import LocalGrid, run_apps
from tests.bench.bench_deploy import cpu_s, resident_mib

NODES = (2, 8, 24)
SIMULATED = (10, 1000, 100_000)
ROUNDS, SAMPLED = 6, 100
REST_S = 20.0


def deployed(nodes: int) -> dict[str, float]:
    """One coordinator and so many SuperNodes."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        sites = tuple(f"site-{number}" for number in range(nodes))
        deployment = stack.enter_context(make_deployment(folder, sites=sites, data=folder, labels=("a", "b")))
        deployment.start("server")
        deployment.wait_ready("server", timeout_s=120)
        wait_for_nodes(deployment, nodes, ("registered",))
        for process in connect(deployment, stack):
            stack.callback(process.kill)
        wait_for_nodes(deployment, nodes, ("online",))
        pid = deployment.processes["server"].pid
        rest, memory = cpu_s(pid), resident_mib(pid)
        time.sleep(REST_S)
        rest = (cpu_s(pid) - rest) / REST_S
        before, started = cpu_s(pid), time.monotonic()
        seconds = rounds(deployment, folder, nodes)
        used = cpu_s(pid) - before - rest * (time.monotonic() - started)
        return {
            "nodes": nodes,
            "mib": memory,
            "rest": rest,
            "cpu_s": used / ROUNDS,
            "round_s": sorted(seconds)[len(seconds) // 2],
        }


def connect(deployment: Deployment, stack: ExitStack) -> list[subprocess.Popen[bytes]]:
    """A SuperNode a site, and one process that answers for all."""
    started, served = [], []
    for site in deployment.sites:
        settings, port = load_client(deployment.folder / site / "client.yaml"), free_port()
        write_private(settings.secret, b"secret")
        supernode = children(settings, Path("client.yaml"), port=port, coordinator=settings.coordinator)[0]
        log = stack.enter_context((deployment.folder / f"{site}.log").open("ab"))
        environment = {**os.environ, **QUIET, **supernode.environment}
        started.append(subprocess.Popen(supernode.command, env=environment, stdout=log, stderr=log))
        served.append(f"{deployment.folder / site}:{port}")
    log = stack.enter_context((deployment.folder / "echo.log").open("ab"))
    started.append(subprocess.Popen([sys.executable, "-m", "tests.bench.echo", *served], stdout=log, stderr=log))
    return started


def wait_for_nodes(deployment: Deployment, nodes: int, states: Sequence[str]) -> None:
    """A SuperNode that is not registered yet would exit."""
    control, give_up = Control(deployment.settings), time.monotonic() + 300
    while sum(node.status in states for node in control.nodes().values()) < nodes:
        if time.monotonic() > give_up:
            raise TimeoutError(f"{control.nodes()} after 300 s")
        time.sleep(2)


def rounds(deployment: Deployment, folder: Path, nodes: int) -> list[float]:
    """Seconds of each empty round with every node."""
    bundle, out = folder / "bundle", folder / "seconds.json"
    bundle.mkdir()
    text = PYPROJECT.format(name="broadcast", run="none").replace(
        "server.deployed:app", "tests.bench.empty_round:broadcast"
    )
    (bundle / "pyproject.toml").write_text(f'{text}rounds = {ROUNDS}\nnodes = {nodes}\nout = "{out}"\n')
    Control(deployment.settings).submit(bundle)
    give_up = time.monotonic() + 400
    while not out.exists():
        if time.monotonic() > give_up:
            raise TimeoutError("the empty rounds did not end")
        time.sleep(0.5)
    return [float(value) for value in json.loads(out.read_text())]


def simulated(nodes: int) -> dict[str, float]:
    """So many clients on the LocalGrid, a hundred (or all) of them asked a round: seconds per message, MiB in all."""
    client, server = ClientApp(), ServerApp()

    @client.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"nothing": ConfigRecord({"x": 1})}), reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        asked = sorted(grid.get_node_ids())[:SAMPLED]
        for _ in range(ROUNDS):
            content = RecordDict({"nothing": ConfigRecord({"x": 1})})
            waiting = set(grid.push_messages([Message(content, node, "train") for node in asked]))
            while waiting:
                waiting -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(list(waiting))}

    began = time.process_time()
    before = resident_mib(os.getpid())
    grid = LocalGrid(client, nodes=nodes, run_config={})
    made_s, mib = time.process_time() - began, resident_mib(os.getpid()) - before
    began = time.process_time()
    run_apps(server, grid, {})
    messages = ROUNDS * min(nodes, SAMPLED)
    return {"nodes": nodes, "made_s": made_s, "mib": mib, "message_s": (time.process_time() - began) / messages}


ROUND_CASES = (("1000", "3", "1.0"), ("1000", "3", "1.0", "empty"), ("10000", "3", "0.01"))
"""Clients, rounds, share that is asked; `empty`: they train nothing."""


def print_rounds(trees: Sequence[Path]) -> None:
    """CPU seconds and peak memory of whole federations, each in a process of its own."""
    print("| tree | clients | asked | start-up (CPU s) | a round (CPU s) | ms a client asked | peak (MiB) |")
    print("|---|---|---|---|---|---|---|")
    for case in ROUND_CASES:
        for tree in trees:
            found = federation(case, tree)
            each = sum(found["rounds"][1:]) / len(found["rounds"][1:])  # the first one loads what all use
            asked = round(float(case[2]) * found["clients"])
            what = f"{asked:,}, {'nothing trained' if 'empty' in case else 'one step each'}"
            print(
                f"| {tree.name} | {found['clients']:,} | {what} | {found['start-up']:.1f} | {each:.1f} "
                f"| {1000 * each / asked:.1f} | {found['mib']:.0f} |",
                flush=True,
            )


def federation(case: Sequence[str], tree: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("many_clients.py")
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *case], cwd=tree, env=environment, check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def slope(found: Sequence[dict[str, float]], key: str) -> float:
    """What one more client adds, between the fewest and the most."""
    few, most = found[0], found[-1]
    return (most[key] - few[key]) / (most["nodes"] - few["nodes"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", action="store_true", help="only whole rounds of many simulated clients")
    parser.add_argument("--against", type=Path, help="another tree, measured in turn")
    given = parser.parse_args()
    os.environ.update(QUIET)
    own = Path(__file__).resolve().parents[2]
    print_rounds([own] if given.against is None else [given.against.resolve(), own])
    if given.rounds:
        return
    found = [deployed(nodes) for nodes in NODES]
    print("| SuperNodes | coordinator (MiB) | its CPU at rest | CPU seconds an empty round | seconds an empty round |")
    print("|---|---|---|---|---|")
    for row in found:
        share, cpu, wall = f"{row['rest']:.1%} of a core", f"{row['cpu_s']:.2f}", f"{row['round_s']:.1f}"
        print(f"| {row['nodes']} | {row['mib']:.0f} | {share} | {cpu} | {wall} |")
    mib, rest, cpu_ms = slope(found, "mib"), slope(found, "rest"), 1000 * slope(found, "cpu_s")
    print(f"\none more client: {mib:.2f} MiB, {rest:.2%} of a core at rest, {cpu_ms:.0f} ms of CPU a message\n")
    print("| simulated clients | to make them (s) | MiB | CPU ms a message |\n|---|---|---|---|")
    for row in map(simulated, SIMULATED):
        print(f"| {row['nodes']:,.0f} | {row['made_s']:.2f} | {row['mib']:.0f} | {row['message_s'] * 1000:.2f} |")


if __name__ == "__main__":
    main()
