"""Sites that answer at once and know nothing: one process serves the executors' side of many SuperNodes.

python -m tests.bench.echo FOLDER:PORT [FOLDER:PORT ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run

from client.flower import executor
from client.settings import load_client

PAUSE_S = 0.05


class Echo(executor.Executor):
    """Answers whatever it is asked with one number."""

    def _app(self, run: Run, fab: Fab) -> executor.AnyClientApp:
        return answer


def answer(message: Message, context: Context) -> Message:
    return Message(RecordDict({"nothing": ConfigRecord({"x": 1})}), reply_to=message)


def main() -> None:
    sites = [given.rpartition(":") for given in sys.argv[1:]]
    nodes = [Echo(load_client(Path(folder) / "client.yaml"), f"127.0.0.1:{port}") for folder, _, port in sites]
    executor.ask_often()
    while True:
        for node in nodes:
            try:
                while node.step():
                    pass
            except Exception as error:
                print(type(error).__name__, error, flush=True)
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
