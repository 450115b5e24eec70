"""Aggregation against straightforward dense implementations, interleaved in one process, CPU time, one thread.

python -m tests.bench.bench_aggregation                 # one matrix, m = n = 4096, r = 16, K = 10 and 100; two minutes
python -m tests.bench.bench_aggregation --adapter       # 128 such matrices, 10 clients, every strategy
python -m tests.bench.bench_aggregation --memory        # peak memory of the mean against the number of clients
python -m tests.bench.bench_aggregation --plot FILE     # cost against K, r and m as a picture
python -m tests.bench.bench_aggregation --size 512      # smaller matrices, for a quick look

The dense side is run once per figure (an SVD of 4096 x 4096 takes half a minute), the factored one before and after.

LoRA-FAIR has three rows. Set-up: what the minimiser needs of the mean product, M itself for the dense form, G = M Aᵀ
and ‖M‖ here. Solve: the minimiser from there on, all of it, against one step of the dense form. Whole: both, from the
updates to the refined B, against the steps that the dense form takes until its published code stops (descent at rate
0.01 until the loss changes by less than 1e-6 five times in a row, at most 1,000), counted by the same steps on factors.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from fedlora.norms import approximate_size
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import State, Strategy
from strategies.fair import times
from strategies.refinement import Penalty, most_similar, nearest
from strategies.registry import STRATEGIES, build

RANK, SCALE = 16, 2.0
WANTED = {
    "fedsvd": {10: 10_000},
    "fedex": {10: 500, 100: 300},
    "flexlora": {10: 500},
    "fair frobenius, solve": {10: 300, 100: 300},
    "fair cosine, solve": {10: 300, 100: 300},
}
"""The factors to reach; of LoRA-FAIR per iteration of the dense form."""
PENALTY, MOST_STEPS = 0.01, 1000


def adapter(m: int, n: int, r: int, *, seed: int, layers: int = 1, core: bool = False) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    made = {
        f"layer-{index}": LowRank(
            torch.randn(m, r, generator=draw) / m**0.5,
            torch.randn(r, n, generator=draw) / n**0.5,
            SCALE,
            torch.randn(r, r, generator=draw) if core else None,
        )
        for index in range(layers)
    }
    return Adapter(made)


def updates(state: Adapter, trains: frozenset[Factor], clients: int, *, round_number: int = 0) -> Iterator[Update]:
    """Made one at a time, so that memory is the strategy's own."""
    for client in range(clients):
        draw = torch.Generator().manual_seed(client + 1 + 1_000_000 * round_number)
        moved = {
            name: tensor + 0.05 * torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5
            for name, tensor in state.tensors(trains).items()
        }
        yield Update(str(client), 1.0 + client, state.with_tensors(moved))


def started(name: str, *, m: int, n: int, r: int = RANK, layers: int = 1, **options: object) -> tuple[Strategy, State]:
    strategy = build(name, options)
    core = Factor.R in strategy.trains(1)
    return strategy, strategy.init(adapter(m, n, r, seed=0, layers=layers, core=core))


def cpu_seconds(work: Callable[[], Any], *, turns: int = 1) -> float:
    """The least of several turns."""
    spent = []
    for _ in range(turns):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


def shares(given: Sequence[Update]) -> list[float]:
    total = sum(update.weight for update in given)
    return [update.weight / total for update in given]


def mean(given: Sequence[Update], factor: str) -> Tensor:
    """Σ w_k X_k of one factor of the only layer."""
    parts = [w * getattr(u.adapter.layers["layer-0"], factor) for w, u in zip(shares(given), given, strict=True)]
    return torch.stack(parts).sum(0)


def mean_product(given: Sequence[Update]) -> Tensor:
    """Σ w_k B_k A_k, formed outright."""
    total = torch.zeros(given[0].adapter.layers["layer-0"].shape)
    for w, update in zip(shares(given), given, strict=True):
        layer = update.adapter.layers["layer-0"]
        total += w * (layer.B_mr @ layer.A_rn)
    return total


def dense_fedsvd(given: Sequence[Update]) -> None:
    torch.linalg.svd(mean(given, "B_mr") @ given[0].adapter.layers["layer-0"].A_rn, full_matrices=False)


def dense_fedex(given: Sequence[Update]) -> None:
    SCALE * (mean_product(given) - mean(given, "B_mr") @ mean(given, "A_rn"))


def dense_flexlora(given: Sequence[Update]) -> None:
    torch.linalg.svd(SCALE * mean_product(given), full_matrices=False)


def dense_fair_step(given: Sequence[Update], M: Tensor, metric: str) -> Callable[[], None]:
    """One autograd step on the dense objective, the mean product already formed."""
    B, A = mean(given, "B_mr"), mean(given, "A_rn")

    def step() -> None:
        dB = torch.zeros_like(B, requires_grad=True)
        product = (B + dB) @ A
        if metric == "cosine":
            distance = 1 - torch.nn.functional.cosine_similarity(M.flatten(), product.flatten(), dim=0)
        else:
            distance = 0.5 * (M - product).square().sum()
        (distance + PENALTY * dB.square().sum()).backward()

    return step


def dense_steps(B: Tensor, A: Tensor, G: Tensor, size: float, metric: str) -> int:
    """How many steps the dense form takes until it stops: the same descent, its loss and gradient by way of factors."""
    H, X, before, still = A @ A.mT, B.clone(), math.inf, 0
    for number in range(1, MOST_STEPS + 1):
        gx, D = float((G * X).sum()), math.sqrt(float((X * (X @ H)).sum()))
        if metric == "cosine":
            loss, slope = 1 - gx / (size * D), (gx / D**2 * (X @ H) - G) / (size * D)
        else:
            loss, slope = 0.5 * (size**2 - 2 * gx + D**2), X @ H - G
        loss += PENALTY * float((X - B).square().sum())
        still = still + 1 if abs(loss - before) < 1e-6 else 0
        if still == 5:
            return number
        X, before = X - 0.01 * (slope + 2 * PENALTY * (X - B)), loss
    return MOST_STEPS


def row(label: str, clients: int, ours: float, dense: float, *, per: str = "") -> None:
    wanted = WANTED.get(label, {}).get(clients)
    goal = f"wanted {wanted:,} x" if wanted else ""
    cells = (
        f"{label:<22} K={clients:<4} {1000 * ours:>9.2f} ms",
        f"{f'dense{per}':<17} {dense:>8.3f} s",
        f"{dense / ours:>9,.0f} x",
    )
    print("   ".join([*cells, goal]), flush=True)


def one_matrix(size: int) -> None:
    twins = {"fedsvd": dense_fedsvd, "fedex": dense_fedex, "flexlora": dense_flexlora}
    for clients in (10, 100):
        for name, twin in twins.items():
            if clients == 100 and name != "fedex":
                continue  # a dense SVD does not depend on the number of clients
            strategy, state = started(name, m=size, n=size)
            given = list(updates(state.adapter, strategy.trains(1), clients))

            def ours(strategy: Strategy = strategy, state: State = state, given: Sequence[Update] = given) -> object:
                return strategy.step(state, strategy.combine(given))

            before = cpu_seconds(ours, turns=5)
            dense = cpu_seconds(lambda twin=twin, given=given: twin(given))
            row(name, clients, min(before, cpu_seconds(ours, turns=5)), dense)
        for metric in ("frobenius", "cosine"):
            fair(size, clients, metric)


def fair(size: int, clients: int, metric: str) -> None:
    """Set-up, solve and whole of LoRA-FAIR; see the top of this file."""
    strategy, state = started("fair", m=size, n=size, metric=metric)
    given = list(updates(state.adapter, strategy.trains(1), clients))
    combined = strategy.combine(given)
    layer, ideal = combined.mean.layers["layer-0"], combined.ideal

    def set_up() -> tuple[Tensor, float]:
        G_mr = times(ideal, "layer-0", layer.A_rn.mT).double().div_(SCALE)
        return G_mr, approximate_size(ideal["layer-0"]) / SCALE if metric == "cosine" else 0.0

    G_mr, length = set_up()

    def solve() -> Tensor:
        if metric == "cosine":
            return most_similar(layer.B_mr, layer.A_rn, G_mr, length, Penalty(PENALTY))
        return nearest(layer.B_mr, layer.A_rn, G_mr, Penalty(PENALTY))

    def whole() -> State:
        return strategy.step(state, strategy.combine(given))

    ours = [cpu_seconds(work, turns=5) for work in (set_up, solve, whole)]
    M = mean_product(given)
    dense_set_up = cpu_seconds(lambda: mean_product(given), turns=2)
    dense_step = cpu_seconds(dense_fair_step(given, M, metric), turns=3)
    ours = [min(old, cpu_seconds(work, turns=5)) for old, work in zip(ours, (set_up, solve, whole), strict=True)]
    steps = dense_steps(layer.B_mr, layer.A_rn, G_mr, length or float(M.norm()), metric)
    row(f"fair {metric}, set-up", clients, ours[0], dense_set_up)
    row(f"fair {metric}, solve", clients, ours[1], dense_step, per=", one step")
    row(f"fair {metric}, whole", clients, ours[2], dense_set_up + steps * dense_step, per=f", {steps} steps")


def whole_adapter(size: int) -> None:
    """CPU seconds on one thread, and wall seconds on two: what two free cores take."""
    print("128 matrices, 10 clients     CPU s, one thread     wall s, two threads")
    for name in sorted(STRATEGIES):
        strategy, state = started(name, m=size, n=size, layers=128)
        given = list(updates(state.adapter, strategy.trains(1), 10))
        torch.set_num_threads(1)
        cpu = cpu_seconds(lambda s=strategy, b=state, g=given: s.step(b, s.combine(g)))
        torch.set_num_threads(2)
        begun = time.perf_counter()
        strategy.step(state, strategy.combine(given))
        print(f"{name:<28} {cpu:>10.2f} {time.perf_counter() - begun:>22.2f}", flush=True)


def peak_megabytes(name: str, options: dict[str, object], clients: int, size: int) -> float:
    """What combining adds to a fresh process's peak, updates made one at a time."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(added_megabytes, (name, options, clients, size))


def added_megabytes(name: str, options: dict[str, object], clients: int, size: int) -> float:
    strategy, state = started(name, m=size, n=size, layers=4, **options)
    for few in (1, 2):  # code and buffers that any number of clients needs
        strategy.step(state, strategy.combine(updates(state.adapter, strategy.trains(1), few)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    strategy.step(state, strategy.combine(updates(state.adapter, strategy.trains(1), clients)))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def memory(size: int) -> None:
    one = 4 * 2 * size * RANK * 4 / 2**20
    print(f"peak memory beyond that of two clients, MB; one update has {one:.0f} MB")
    for label, name, options in (
        ("fedit, report_error: false", "fedit", {"report_error": False}),
        ("fedit", "fedit", {}),
        ("ffa", "ffa", {}),
    ):
        found = [f"K={clients}: {peak_megabytes(name, options, clients, size):6.0f}" for clients in (10, 100, 300)]
        print(f"{label:<28} {'   '.join(found)}", flush=True)


def plot(path: Path, size: int) -> None:
    """Cost of one matrix against the number of clients, the rank and the side."""
    axes = [
        (f"clients K (r = {RANK}, m = n = {size})", 2, [(size, RANK, clients) for clients in (2, 4, 8, 16, 32, 64)]),
        (f"rank r (K = 10, m = n = {size})", 1, [(size, r, 10) for r in (2, 4, 8, 16, 32)]),
        (f"side m = n (K = 10, r = {RANK})", 0, [(m, RANK, 10) for m in (256, 512, 1024, 2048, 4096, 8192)]),
    ]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for panel, (label, column, points) in zip(panels, axes, strict=True):
        at = [point[column] for point in points]
        for index, name in enumerate(sorted(STRATEGIES)):
            costs = [1000 * cost(name, m=m, r=r, clients=clients) for m, r, clients in points]
            style = {
                "color": f"C{index % 10}",
                "linestyle": "-" if index < 10 else "--",
                "marker": "o",
                "markersize": 3,
            }
            panel.loglog(at, costs, label=name, **style)
        panel.set_xticks(at, [str(value) for value in at])
        panel.minorticks_off()
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("CPU ms per matrix, one thread")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=80)


def cost(name: str, *, m: int, r: int, clients: int) -> float:
    strategy, state = started(name, m=m, n=m, r=r)
    given = list(updates(state.adapter, strategy.trains(1), clients))
    return cpu_seconds(lambda: strategy.step(state, strategy.combine(given)), turns=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--adapter", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.adapter:
        whole_adapter(arguments.size)
    elif arguments.memory:
        memory(arguments.size)
    elif arguments.plot:
        plot(arguments.plot, arguments.size)
    else:
        one_matrix(arguments.size)


if __name__ == "__main__":
    main()
