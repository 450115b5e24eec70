"""A base that moves, round by round: what is kept, stored and sent to a newcomer, against keeping every residual.

    python -m tests.bench.bench_versions          # FedEx-LoRA and FLoRA, 50 rounds, 24 matrices of 384 x 384
    python -m tests.bench.bench_versions --rounds 100 --size 768

`every`: every round's residual kept by itself, and their stack compacted by QR and SVD for whoever comes new, whatever
its rank. `merged`: what `strategies.versions` does. CPU time of one thread, interleaved.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from fedlora.lowrank import Product, compact, stack
from fedlora.wire.state import encode_state
from server.record.checkpoint import Progress, write
from strategies.base import Recipient, State
from strategies.versions import Residual
from tests.bench.bench_aggregation import cpu_seconds, started, updates

CLIENTS, RANK, LAYERS = 6, 8, 24


def every_compacted(residuals: tuple[Residual, ...]) -> dict[str, Product]:
    if len(residuals) == 1:
        return dict(residuals[0])
    return {name: compact(stack([residual[name] for residual in residuals])) for name in residuals[0]}


def megabytes_down(state: State, residual: Residual) -> float:
    blob = encode_state(state.adapter, residual, run="r", round_number=1, strategy="fedex", codec="fp32")
    return len(blob) / 2**20


def megabytes_stored(state: State, folder: Path) -> float:
    write(folder / "checkpoint", Progress("r", 1, state), recipe={})
    return (folder / "checkpoint").stat().st_size / 2**20


def compare(name: str, rounds: int, size: int) -> None:
    strategy, state = started(name, m=size, n=size, r=RANK, layers=LAYERS)
    every: tuple[Residual, ...] = ()
    print(f"{name}: {LAYERS} matrices of {size} x {size}, r = {RANK}, {CLIENTS} clients")
    print(f"{'':>6} {'to a newcomer, MB':>21} {'checkpoint, MB':>19} {'made in, CPU s':>19} {'step, CPU s':>12}")
    print(f"{'round':>6} {'every':>11} {'merged':>9} {'every':>9} {'merged':>9} {'every':>9} {'merged':>9}")
    for number in range(1, rounds + 1):
        combined = strategy.combine(list(updates(state.adapter, strategy.trains(1), CLIENTS, round_number=number)))
        before = state
        step = cpu_seconds(lambda before=before, combined=combined: strategy.step(before, combined))
        state = strategy.step(state, combined)
        every = (*every, state.residuals[-1])
        if number not in (1, 2, 5, 10, 20, rounds):
            continue
        kept = replace(state, residuals=every, past={}, merged=0)
        old = cpu_seconds(lambda every=every: every_compacted(every))
        new = cpu_seconds(lambda state=state: strategy.broadcast(state, Recipient("newcomer")))
        sent = strategy.broadcast(state, Recipient("newcomer")).residual
        whole = every_compacted(every)
        gap = max(float((sent[key].dense() - whole[key].dense()).abs().max()) for key in whole)
        assert gap < 1e-6 * max(float(product.dense().abs().max()) for product in whole.values())
        with tempfile.TemporaryDirectory() as folder:
            stored = [megabytes_stored(given, Path(folder)) for given in (kept, state)]
        down = [megabytes_down(state, given) for given in (whole, sent)]
        print(
            f"{number:>6} {down[0]:>11.1f} {down[1]:>9.1f} {stored[0]:>9.1f} {stored[1]:>9.1f} {old:>9.2f} {new:>9.2f}"
            f" {step:>12.3f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--size", type=int, default=384)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("fedex", "flora"):
        compare(name, arguments.rounds, arguments.size)


if __name__ == "__main__":
    main()
