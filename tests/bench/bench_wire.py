"""Bytes of every codec and density, exact; and CPU time of encode, decode and top-k, interleaved with the alternatives.

python -m tests.bench.bench_wire              # 2^20 values
python -m tests.bench.bench_wire --values 16777216
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import Array
from safetensors.torch import save

from fedlora.wire.message import Expected, Header, Schema, decode, encode
from fedlora.wire.topk import top_k
from fedlora.wire.values import CodecName

HEADER = Header("update", "0" * 32, 1, "client", "fedit", b"0" * 16)
EXPECTED = Expected("update", "0" * 32, 1, b"0" * 16)
CODECS: tuple[CodecName, ...] = ("fp32", "fp16", "int8", "int4", "sign")
DENSITIES = (1.0, 1 / 4, 1 / 16, 1 / 64)


def cpu_ms(work: Callable[[], Any], repeats: int = 3) -> float:
    """The fastest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1000 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=1 << 20)
    n = parser.parse_args().values
    torch.set_num_threads(1)
    values = torch.randn(n, generator=torch.Generator().manual_seed(0))
    tensors = {"x": values}
    schema = Schema.of(tensors)

    print(f"reduction of {n:,} values against fp32: " + "".join(f"{f'1/{round(1 / d)}':>9}" for d in DENSITIES))
    for codec in CODECS:
        sizes = [len(encode(tensors, HEADER, codec=codec, density=density)) for density in DENSITIES]
        print(f"{codec:<46}" + "".join(f"{4 * n / size:>8.1f}x" for size in sizes))

    print("\nCPU ms                                 encode   decode")
    for density in DENSITIES:
        blob = encode(tensors, HEADER, codec="int4", density=density)
        packing = cpu_ms(lambda d=density: encode(tensors, HEADER, codec="int4", density=d))
        opening = cpu_ms(lambda b=blob: decode(b, schema, EXPECTED))
        print(f"int4 at 1/{round(1 / density):<28} {packing:>8.1f} {opening:>8.1f}")
    packed = save({"x": values.half()})
    array = Array(values.numpy())
    stored = cpu_ms(lambda: save({"x": values.half()}))
    print(f"{'safetensors fp16':<38} {stored:>8.1f}        -   ({4 * n / len(packed):.1f}x)")
    print(
        f"{'Flower Array fp32':<38} {cpu_ms(lambda: Array(values.numpy())):>8.1f} {cpu_ms(array.numpy):>8.1f}   (1.0x)"
    )

    print("\nexact top-k, CPU ms                      ours   torch.topk")
    for density in DENSITIES[1:]:
        k = round(density * n)
        ours, theirs = cpu_ms(lambda k=k: top_k(values, k)), cpu_ms(lambda k=k: values.abs().topk(k, sorted=False))
        print(f"1/{round(1 / density):<36} {ours:>8.1f} {theirs:>8.1f}   {theirs / ours:.1f}x")


if __name__ == "__main__":
    main()
