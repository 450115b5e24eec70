"""The wire against what one would take otherwise: bytes (exact), CPU time of packing and of taking in, exact top-k.

    python -m tests.bench.bench_wire                     # 0.3M and 16.8M values
    python -m tests.bench.bench_wire --values 300000

One update of Gaussian values is packed by every scheme, then taken in: from the objects that Flower's grid has pulled
to a float64 accumulator; Flower's own array to the sum that its FedAvg makes, for one answer of eight. CPU milliseconds
of one thread, the least of some interleaved turns. "error" is ‖lost by quantising‖ / ‖what is kept‖.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import zstandard
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from safetensors.torch import load, save
from torch import Tensor

from fedlora.wire.chunks import CHUNK
from fedlora.wire.indices import code_bytes
from fedlora.wire.message import Expected, Header, Schema, decode, encode
from fedlora.wire.packing import CodecName
from fedlora.wire.topk import top_k

HEADER = Header("update", "0" * 32, 1, "client", "fedit", b"0" * 16)
EXPECTED = Expected("update", "0" * 32, 1, b"0" * 16)
DENSITIES = (1.0, 1 / 4, 1 / 16, 1 / 64)
CODECS: tuple[CodecName, ...] = ("fp32", "fp16", "int8", "int4", "sign")
Floats = npt.NDArray[np.float32]
BLOCK = CHUNK  # positions for one scale of the dead-zone codes
ANSWERS = 8  # that Flower's aggregation is given at a time: it makes its result once for all of them
ZSTD = zstandard.ZstdCompressor(level=1)


@dataclass(frozen=True)
class Scheme:
    """How to pack a dense vector whose left-out values are zero, and how to add what arrives to a total."""

    pack: Callable[[Tensor], bytes]
    unpack: Callable[[bytes, int], Tensor]

    def taking_in(self, packed: bytes, total: Tensor) -> Callable[[], object]:
        """What is measured: from the objects that Flower's grid has pulled to the total."""
        read = delivered(ArrayRecord({"x": Array("uint8", (len(packed),), "fedlora.update.v1", packed)}))
        return lambda: self.take_in(read().array_records["arrays"]["x"].data, total)

    def take_in(self, packed: bytes, total: Tensor) -> None:
        total.add_(self.unpack(packed, len(total)))


@dataclass(frozen=True)
class Ours(Scheme):
    """Validated in every respect, and added up as sparse as it came."""

    def take_in(self, packed: bytes, total: Tensor) -> None:
        decode(packed, Schema({"x": (len(total),)}), EXPECTED).add_to({"x": total})


def ours(codec: CodecName, density: float) -> Scheme:
    return Ours(
        lambda x: encode({"x": x}, HEADER, codec=codec, density=density),
        lambda packed, n: decode(packed, Schema({"x": (n,)}), EXPECTED).tensors["x"],
    )


def flower(x: Tensor) -> bytes:
    return Array(x.numpy()).data


def from_flower(packed: bytes, n: int) -> Tensor:
    array = Array(dtype="float32", shape=(n,), stype="numpy.ndarray", data=packed)
    return torch.from_numpy(array.numpy())


def dead_zone(x: Tensor, levels: int) -> bytes:
    """One int8 code a value, zero where it is left out, and a scale for every `BLOCK` positions; then zstd-1."""
    padded = np.zeros(-(-len(x) // BLOCK) * BLOCK, dtype=np.float32)
    padded[: len(x)] = x.numpy()
    blocks = padded.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(1) / levels).astype(np.float16)
    safe = np.where(scales > 0, scales, 1).astype(np.float32)[:, None]
    return scales.tobytes() + ZSTD.compress(np.clip(np.rint(blocks / safe), -levels, levels).astype(np.int8).tobytes())


def from_dead_zone(packed: bytes, n: int) -> Tensor:
    count = -(-n // BLOCK)
    scales = np.frombuffer(packed[: 2 * count], dtype=np.float16).astype(np.float32)
    codes = np.frombuffer(zstandard.ZstdDecompressor().decompress(packed[2 * count :]), dtype=np.int8)
    return torch.from_numpy((codes.reshape(-1, BLOCK) * scales[:, None]).ravel()[:n])


class Flower(Scheme):
    """Taken in by Flower's own aggregation, which multiplies and adds dense float32."""

    def taking_in(self, packed: bytes, total: Tensor) -> Callable[[], object]:
        read = delivered(ArrayRecord({"x": Array("float32", (len(total),), "numpy.ndarray", packed)}))
        return lambda: aggregate_arrayrecords([read() for _ in range(ANSWERS)], "n")


def delivered(arrays: ArrayRecord) -> Callable[[], RecordDict]:
    """A reply as Flower's grid makes it from what it has pulled."""
    record = RecordDict({"arrays": arrays, "metrics": MetricRecord({"n": 1.0})})
    contents = {name: item.deflate() for name, item in get_all_nested_objects(record).items()}
    return lambda: cast(RecordDict, inflate_object_from_contents(record.object_id, dict(contents)))


def coo(x: Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(x.to_sparse_coo(), file)
    return file.getvalue()


SCHEMES: Mapping[str, Scheme] = {
    "Flower Array fp32": Flower(flower, from_flower),
    "safetensors fp16": Scheme(lambda x: save({"x": x.half()}), lambda packed, n: load(packed)["x"].float()),
    "zstd-1 of masked fp32": Scheme(
        lambda x: ZSTD.compress(x.numpy().tobytes()),
        lambda packed, n: torch.frombuffer(
            bytearray(zstandard.ZstdDecompressor().decompress(packed)), dtype=torch.float32
        ),
    ),
    "dead-zone int8 + zstd-1": Scheme(lambda x: dead_zone(x, 127), from_dead_zone),
    "dead-zone, 11 levels + zstd": Scheme(lambda x: dead_zone(x, 11), from_dead_zone),
    "torch COO": Scheme(coo, lambda packed, n: torch.load(io.BytesIO(packed)).to_dense()),
}


def cpu_ms(works: Mapping[str, Callable[[], object]], *, turns: int) -> dict[str, float]:
    """The least CPU time of each, all taking turns."""
    least = dict.fromkeys(works, math.inf)
    for _ in range(turns):
        for name, work in works.items():
            started = time.process_time()
            work()
            least[name] = min(least[name], 1000 * (time.process_time() - started))
    return least


def masked(values: Tensor, density: float) -> Tensor:
    """What the other schemes are given: the same largest values, zero elsewhere."""
    kept = torch.zeros_like(values)
    chosen = torch.from_numpy(top_k(values, round(density * len(values))))
    kept[chosen] = values[chosen]
    return kept


def compare(values: Tensor, density: float, *, turns: int) -> None:
    n = len(values)
    kept = masked(values, density)
    schemes = {**SCHEMES, "fedlora int8": ours("int8", density), "fedlora int4": ours("int4", density)}
    packed = {name: scheme.pack(kept) for name, scheme in schemes.items()}
    total = torch.zeros(n, dtype=torch.float64)
    packing = cpu_ms({name: lambda s=s: s.pack(kept) for name, s in schemes.items()}, turns=turns)
    taking = cpu_ms({name: scheme.taking_in(packed[name], total) for name, scheme in schemes.items()}, turns=turns)
    taking["Flower Array fp32"] /= ANSWERS
    print(f"\n{n:,} values at density 1/{round(1 / density)}")
    print(f"  {'':<28}{'bytes':>12}{'reduction':>11}{'error':>9}{'pack ms':>10}{'take in ms':>12}")
    for name, blob in packed.items():
        error = float((schemes[name].unpack(blob, n) - kept).norm() / kept.norm())
        print(
            f"  {name:<28}{len(blob):>12,}{4 * n / len(blob):>10.1f}x{error:>9.1e}{packing[name]:>10.1f}"
            f"{taking[name]:>12.1f}"
        )
    ratio = taking["Flower Array fp32"] / taking["fedlora int4"]
    print(f"  taking in: {ratio:.1f} times faster than Flower's Array; {index_cost(n, density)}")


def as_adapter(values: Tensor, count: int, *, turns: int) -> None:
    """Taking in again, with the same values in as many tensors as an adapter has."""
    tensors = {f"{i:03}": part for i, part in enumerate(values.chunk(count))}
    blob = encode(tensors, HEADER, codec="int4", density=1 / 16)
    totals = {name: torch.zeros(part.shape, dtype=torch.float64) for name, part in tensors.items()}
    theirs = delivered(ArrayRecord({name: Array(part.numpy()) for name, part in tensors.items()}))
    read = delivered(ArrayRecord({"x": Array("uint8", (len(blob),), "fedlora.update.v1", blob)}))

    def take_in() -> None:
        arrived = read().array_records["arrays"]["x"].data
        decode(arrived, Schema.of(tensors), EXPECTED).add_to(totals)

    works = {"theirs": lambda: aggregate_arrayrecords([theirs() for _ in range(ANSWERS)], "n"), "ours": take_in}
    taking = cpu_ms(works, turns=turns)
    ratio = taking["theirs"] / ANSWERS / taking["ours"]
    print(f"\n{len(values):,} values in {count} tensors, int4 at 1/16: taken in in {taking['ours']:.1f} ms,", end=" ")
    print(f"{ratio:.1f} times faster than Flower's Arrays")


def index_cost(n: int, density: float) -> str:
    """Bits of the index code against log2 C(n, k), chunk by chunk."""
    k = round(density * CHUNK)
    if k == CHUNK:
        return "no indices"
    best = (math.lgamma(CHUNK + 1) - math.lgamma(k + 1) - math.lgamma(CHUNK - k + 1)) / math.log(2)
    return f"indices {8 * code_bytes(CHUNK, k) / best:.2f} times log2 C(n, k)"


def reductions(values: Tensor) -> None:
    n = len(values)
    print(f"\nreduction of {n:,} values against fp32" + "".join(f"{f'1/{round(1 / d)}':>9}" for d in DENSITIES))
    for codec in CODECS:
        sizes = [len(encode({"x": values}, HEADER, codec=codec, density=density)) for density in DENSITIES]
        print(f"{codec:<42}" + "".join(f"{4 * n / size:>8.1f}x" for size in sizes))


def top_ks(values: Tensor, *, turns: int) -> None:
    print(f"\nexact top-k of {len(values):,}, CPU ms          ours   torch.topk")
    for density in DENSITIES[1:]:
        k = round(density * len(values))
        least = cpu_ms(
            {"ours": lambda k=k: top_k(values, k), "torch": lambda k=k: values.abs().topk(k, sorted=False)}, turns=turns
        )
        faster = least["torch"] / least["ours"]
        print(f"1/{round(1 / density):<42} {least['ours']:>8.1f} {least['torch']:>8.1f}   {faster:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, nargs="*", default=[300_000, 1 << 24])
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for n in arguments.values:
        values = torch.randn(n, generator=torch.Generator().manual_seed(0))
        reductions(values)
        top_ks(values, turns=arguments.turns)
        for density in DENSITIES:
            compare(values, density, turns=arguments.turns)
        as_adapter(values, 256 if n > 1 << 20 else 24, turns=arguments.turns)


if __name__ == "__main__":
    main()
