"""A ServerApp for bench_deploy: sends every node, in turn, a message that is no task, and times the answer."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

POLL_S = 0.05

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Seconds of every round trip, by node id, to the file that the run's configuration names."""
    nodes = int(context.run_config["nodes"])
    while len(connected := sorted(grid.get_node_ids())) < nodes:
        time.sleep(0.5)
    seconds: dict[int, list[float]] = {node: [] for node in connected}
    for _ in range(int(context.run_config["rounds"])):
        for node in connected:
            seconds[node].append(round_trip(grid, node))
    Path(str(context.run_config["out"])).write_text(json.dumps(seconds))


def round_trip(grid: Grid, node: int) -> float:
    """One message to one node and its answer back, which is a report of `malformed-task`."""
    started = time.monotonic()
    content = RecordDict({"nothing": ConfigRecord({"x": 1})})
    waiting = list(grid.push_messages([Message(content, node, "train")]))
    while not (replies := list(grid.pull_messages(waiting))):
        time.sleep(POLL_S)
    if replies[0].has_error():
        raise RuntimeError(f"node {node}: {replies[0].error.reason}")
    return time.monotonic() - started
