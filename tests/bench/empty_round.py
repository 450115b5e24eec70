"""ServerApps for the benches: messages that are no task, to one node after the other, or to all of them at once."""

from __future__ import annotations

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

POLL_S = 0.05

app = ServerApp()
broadcast = ServerApp()


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


@broadcast.main()
def broadcast_rounds(grid: Grid, context: Context) -> None:
    """Seconds of every round with all nodes, to the file that the run's configuration names."""
    nodes = int(context.run_config["nodes"])
    while len(connected := sorted(grid.get_node_ids())) < nodes:
        time.sleep(0.5)
    seconds = []
    for _ in range(int(context.run_config["rounds"])):
        started = time.monotonic()
        content = RecordDict({"nothing": ConfigRecord({"x": 1})})
        waiting = set(grid.push_messages([Message(content, node, "train") for node in connected]))
        while waiting:
            waiting -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(list(waiting))}
            time.sleep(POLL_S)
        seconds.append(time.monotonic() - started)
    Path(str(context.run_config["out"])).write_text(json.dumps(seconds))
