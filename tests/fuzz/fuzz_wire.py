"""Mutants of honest messages against decode and ingest: what arrives may be refused, nothing else may happen.

    python -m tests.fuzz.fuzz_wire --seconds 300

Most mutants have their checksums and their hash made right again, as an attacker would. Checked for every mutant: no
exception but WireError, memory below twice that of the honest message, the accumulator bit-identical after a reject.
Half of them go through the compiled loops, where numba is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import time
import tracemalloc
import zlib
from collections import Counter
from typing import get_args

import torch

from fedlora.wire import kernels
from fedlora.wire import update_pb2 as pb
from fedlora.wire.message import Expected, Header, Schema, WireError, decode, encode
from fedlora.wire.packing import CodecName

HEADER = Header("update", "run", 3, "site", "fedit", b"b" * 16)
EXPECTED = Expected("update", "run", 3, b"b" * 16, max_norm=1e4)
SHAPES = {"a.A": (4, 40), "a.B": (33, 4), "empty": (0,), "head/bias": (3,)}
LEAST = kernels.LEAST
CODECS: tuple[CodecName, ...] = get_args(CodecName)


def honest() -> list[bytes]:
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}
    return [encode(tensors, HEADER, codec=codec, density=density) for codec in CODECS for density in (1.0, 0.3, 0.03)]


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, inserted or set to extremes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        kind, at = draw.randrange(5), draw.randrange(len(changed) + 1)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 3:
            changed[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x00\x7c\x00\xfc"))
        else:
            changed += changed[at : at + 64]
    return bytes(changed)


def struck(data: bytes, draw: random.Random) -> bytes:
    """Other bits and bytes, the same length: what gets as far as indices and values."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8)) if data else 0):
        at = draw.randrange(len(changed))
        changed[at] = draw.choice((changed[at] ^ 1 << draw.randrange(8), draw.randrange(256), 0, 255))
    return bytes(changed)


def mutate_body(body: pb.Body, draw: random.Random) -> None:
    """A lie in a field or a damaged payload; checksums are made right by the caller."""
    kind = draw.randrange(10)
    if kind == 0:
        setattr(body, draw.choice(("format", "round")), draw.choice((0, 1, 2, 3, 2**31, 2**32 - 1)))
    elif kind == 1:
        setattr(body, draw.choice(("base_hash", "schema_hash")), draw.randbytes(draw.choice((0, 15, 16, 17, 4096))))
    elif kind == 2:
        body.codec = draw.choice((0, 1, 2, 3, 4, 5, 6, 7, 2**31 - 1))
    elif kind == 3:
        body.residual_ranks.extend(draw.choices((0, 1, 2**32 - 1), k=draw.randrange(1, 50)))
    elif kind == 4 and body.chunks:
        body.chunks[draw.randrange(len(body.chunks))].k = draw.choice((0, 1, 3, 159, 160, 161, 2**16, 2**32 - 1))
    elif kind == 5 and body.chunks:
        body.chunks.append(body.chunks[draw.randrange(len(body.chunks))])
    elif kind >= 7 and body.chunks:
        chunk = draw.choice(body.chunks)
        chunk.payload = struck(chunk.payload, draw)
    elif body.chunks:
        chunk = draw.choice(body.chunks)
        chunk.payload = damaged(chunk.payload, draw)


def mutant(blob: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.2:
        return damaged(blob, draw)
    body = pb.Body.FromString(pb.Envelope.FromString(blob).body)
    for _ in range(draw.choice((1, 1, 2, 3))):
        mutate_body(body, draw)
    for chunk in body.chunks:
        chunk.crc32 = zlib.crc32(chunk.payload)
    packed = body.SerializeToString(deterministic=True)
    if draw.random() < 0.1:
        packed = damaged(packed, draw)
    return pb.Envelope(body=packed, sha256=hashlib.sha256(packed).digest()).SerializeToString()


def run(seconds: float, *, seed: int = 0, least: int = 0) -> Counter[str]:
    """Fuzz for so long (and at least so many mutants); returns what happened how often. AssertionError on a flaw."""
    draw, schema = random.Random(seed), Schema({name: tuple(shape) for name, shape in SHAPES.items()})
    originals = honest()
    accumulator = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    seen: Counter[str] = Counter()
    kernels.LEAST = 0
    for blob in originals:  # compile first, for float32 and float64: that takes memory
        message = decode(blob, schema, EXPECTED)
        message.add_to(dict(message.tensors))
        message.add_to({name: tensor.clone() for name, tensor in accumulator.items()}, scale=1e-9)
    tracemalloc.start()
    honest_peak = max(peak_of(blob, schema) for blob in originals for _ in range(2))
    until = time.monotonic() + seconds
    while time.monotonic() < until or sum(seen.values()) < least:
        blob = mutant(draw.choice(originals), draw)
        before = {name: tensor.clone() for name, tensor in accumulator.items()}
        kernels.LEAST = draw.choice((0, LEAST))  # through the compiled loops, which check no bounds themselves, or not
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        try:
            message = decode(blob, schema, EXPECTED)
        except WireError as error:
            seen[error.code] += 1
            assert all(torch.equal(accumulator[name], before[name]) for name in before)
        else:
            seen["accepted"] += 1
            assert all(torch.isfinite(tensor).all() for tensor in message.tensors.values())
            message.add_to(accumulator, scale=1e-9)
        used = tracemalloc.get_traced_memory()[1] - start
        assert used <= 2 * honest_peak, f"{used} bytes for a message of {len(blob)}; an honest one takes {honest_peak}"
    tracemalloc.stop()
    kernels.LEAST = LEAST
    return seen


def peak_of(blob: bytes, schema: Schema) -> int:
    tracemalloc.reset_peak()
    start = tracemalloc.get_traced_memory()[0]
    decode(blob, schema, EXPECTED)
    return tracemalloc.get_traced_memory()[1] - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--least", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    seen = run(arguments.seconds, seed=arguments.seed, least=arguments.least)
    for code, count in seen.most_common():
        print(f"{count:>9}  {code}")
    print(f"{sum(seen.values()):>9}  mutants, no flaw found")


if __name__ == "__main__":
    main()
