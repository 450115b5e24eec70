"""Aggregation against straightforward dense implementations, interleaved in one process, CPU time, one thread.

python -m tests.bench.bench_aggregation                 # one matrix, m = n = 4096, r = 16, K = 10 and 100
python -m tests.bench.bench_aggregation --adapter       # 128 such matrices, 10 clients, every strategy
python -m tests.bench.bench_aggregation --size 512      # smaller matrices, for a quick look
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.registry import STRATEGIES, build


def adapter(m: int, n: int, r: int, *, seed: int, layers: int = 1, core: bool = False) -> Adapter:
    draw = torch.Generator().manual_seed(seed)
    made = {
        f"layer-{index}": LowRank(
            torch.randn(m, r, generator=draw) / m**0.5,
            torch.randn(r, n, generator=draw) / n**0.5,
            2.0,
            torch.randn(r, r, generator=draw) if core else None,
        )
        for index in range(layers)
    }
    return Adapter(made)


def updates(state: Adapter, trains: frozenset[Factor], clients: int) -> Iterator[Update]:
    """Made one at a time, so that memory is the strategy's own."""
    for client in range(clients):
        draw = torch.Generator().manual_seed(client + 1)
        moved = {
            name: tensor + 0.05 * torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5
            for name, tensor in state.tensors(trains).items()
        }
        yield Update(str(client), 1.0 + client, state.with_tensors(moved))


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def dense_fedsvd(given: list[Update]) -> None:
    B = sum(u.weight * u.adapter.layers["layer-0"].B_mr for u in given) / sum(u.weight for u in given)
    torch.linalg.svd(B @ given[0].adapter.layers["layer-0"].A_rn, full_matrices=False)


def dense_fedex(given: list[Update]) -> None:
    total = sum(u.weight for u in given)
    layers = [u.adapter.layers["layer-0"] for u in given]
    B = sum(u.weight * layer.B_mr for u, layer in zip(given, layers, strict=True)) / total
    A = sum(u.weight * layer.A_rn for u, layer in zip(given, layers, strict=True)) / total
    2.0 * (sum(u.weight * (x.B_mr @ x.A_rn) for u, x in zip(given, layers, strict=True)) / total - B @ A)


def dense_flexlora(given: list[Update]) -> None:
    total = sum(u.weight for u in given)
    mean = sum(u.weight * 2.0 * (u.adapter.layers["layer-0"].B_mr @ u.adapter.layers["layer-0"].A_rn) for u in given)
    torch.linalg.svd(mean / total, full_matrices=False)


def dense_fair_iteration(given: list[Update]) -> Callable[[], None]:
    """One autograd step on the dense objective, the mean product already formed."""
    total = sum(u.weight for u in given)
    layers = [u.adapter.layers["layer-0"] for u in given]
    B = sum(u.weight * x.B_mr for u, x in zip(given, layers, strict=True)) / total
    A = sum(u.weight * x.A_rn for u, x in zip(given, layers, strict=True)) / total
    M = sum(u.weight * (x.B_mr @ x.A_rn) for u, x in zip(given, layers, strict=True)) / total

    def step() -> None:
        dB = torch.zeros_like(B, requires_grad=True)
        product = (B + dB) @ A
        loss = (
            1 - torch.nn.functional.cosine_similarity(M.flatten(), product.flatten(), dim=0) + 0.01 * dB.square().sum()
        )
        loss.backward()

    return step


def factored(name: str, state: Any, given: list[Update]) -> Callable[[], object]:
    strategy = build(name, {})
    return lambda: strategy.step(state, strategy.combine(given))


def row(label: str, ours: float, dense: float) -> None:
    print(f"{label:<34} {1000 * ours:>10.2f} ms   dense {dense:>9.3f} s   {dense / ours:>9.0f} x", flush=True)


def one_matrix(size: int) -> None:
    r = 16
    for clients in (10, 100):
        state = adapter(size, size, r, seed=0)
        for name, twin in (("fedsvd", dense_fedsvd), ("fedex", dense_fedex), ("flexlora", dense_flexlora)):
            if clients == 100 and name in ("fedsvd", "flexlora"):
                continue  # their dense SVD does not depend on the number of clients
            strategy = build(name, {})
            begun = strategy.init(state)
            given = list(updates(state, strategy.trains(1), clients))
            ours = min(cpu_seconds(factored(name, begun, given)) for _ in range(5))
            row(f"{name} K={clients}", ours, cpu_seconds(lambda twin=twin, given=given: twin(given)))
        strategy = build("fair", {})
        given = list(updates(state, strategy.trains(1), clients))
        step = dense_fair_iteration(given)
        for metric in ("frobenius", "cosine"):
            fair = build("fair", {"metric": metric})
            begun, combined = fair.init(state), fair.combine(given)
            ours = min(cpu_seconds(lambda fair=fair, b=begun, c=combined: fair.step(b, c)) for _ in range(5))
            row(f"fair {metric} K={clients}, whole solve", ours, cpu_seconds(step))


def whole_adapter(size: int) -> None:
    for name in sorted(STRATEGIES):
        strategy = build(name, {})
        core = Factor.R in strategy.trains(1)
        state = strategy.init(adapter(size, size, 16, seed=0, layers=128, core=core))
        wall = time.perf_counter()
        given = list(updates(state.adapter, strategy.trains(1), 10))
        made = time.perf_counter() - wall
        wall = time.perf_counter()
        strategy.step(state, strategy.combine(given))
        print(
            f"{name:<10} 128 matrices, 10 clients: {time.perf_counter() - wall:6.2f} s  (inputs made in {made:.1f} s)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--adapter", action="store_true")
    arguments = parser.parse_args()
    if arguments.adapter:
        torch.set_num_threads(2)
        whole_adapter(arguments.size)
    else:
        torch.set_num_threads(1)
        one_matrix(arguments.size)


if __name__ == "__main__":
    main()
