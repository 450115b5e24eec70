"""The tensors of a message as chunks of at most 2^18 values, none across two tensors, and back.

Each function for whole messages has a slow clear twin beside it, which takes tensor after tensor.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlora.updates import Tensors
from fedlora.wire import update_pb2 as pb
from fedlora.wire.indices import code_bytes, decode_indices, encode_indices
from fedlora.wire.kernels import Floats, Places
from fedlora.wire.packing import CodecName
from fedlora.wire.topk import top_k
from fedlora.wire.values import DTYPES, ValueCodeError, decode_values, encode_values

CHUNK = 1 << 18
Shapes = Mapping[str, tuple[int, ...]]
Chunks = Sequence[pb.Chunk]


@dataclass(frozen=True)
class Part:
    """A decoded chunk: `values` belong at `indices` of tensor `name`, flat, counted from `start`; None: at all n."""

    name: str
    start: int
    n: int
    indices: Places | None
    values: Floats


def sizes(shapes: Shapes) -> Iterator[int]:
    """Number of values of every tensor."""
    for shape in shapes.values():
        yield int(torch.Size(shape).numel())


def chunk_sizes(shapes: Shapes) -> Iterator[int]:
    """Of all tensors, in their order."""
    for size in sizes(shapes):
        yield from (min(CHUNK, size - start) for start in range(0, size, CHUNK))


def whole_chunks(tensors: Tensors, codec: CodecName) -> Iterator[pb.Chunk]:
    """What `chunks_of` gives for all tensors, one after the other, where every value is sent as a float: coded in one
    piece, which is cut."""
    flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors.values()])
    code, width = encode_values(flat, codec), DTYPES[codec].itemsize
    at = 0
    for n in chunk_sizes({name: tuple(tensor.shape) for name, tensor in tensors.items()}):
        payload = code[at : at + width * n]
        at += width * n
        yield pb.Chunk(k=n, crc32=zlib.crc32(payload), payload=payload)


def chunks_of(values: Tensor, codec: CodecName, density: float, omit_zeros: bool) -> Iterator[pb.Chunk]:
    """One tensor's chunks; k of each is whatever share of the tensor's top-k falls into it."""
    n = values.numel()
    if n and not all(math.isfinite(bound) for bound in torch.aminmax(values)):  # NaN is its own bound
        raise ValueCodeError("a value is not finite")
    k = n if density == 1.0 else max(1, round(density * n))
    if omit_zeros and (k < n or not bool(torch.any(values))):
        k = min(k, int(torch.count_nonzero(values)))
    chosen = top_k(values, k)
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        inside = chosen[slice(*np.searchsorted(chosen, (start, start + size)))]
        payload = encode_indices(inside - start, size) + encode_values(values[torch.from_numpy(inside)], codec)
        yield pb.Chunk(k=len(inside), crc32=zlib.crc32(payload), payload=payload)


def unpack(chunks: Chunks, shapes: Shapes, codec: CodecName) -> Iterator[Part]:
    """The parts of a message whose lengths have been compared; IndexCodeError or ValueCodeError."""
    whole = all(chunk.k == n for chunk, n in zip(chunks, chunk_sizes(shapes), strict=True))
    if codec in DTYPES and chunks and whole:
        return unpack_whole(chunks, shapes, codec)
    return unpack_each(chunks, shapes, codec)


def unpack_whole(chunks: Chunks, shapes: Shapes, codec: CodecName) -> Iterator[Part]:
    """What `unpack_each` gives where every value was sent as a float: decoded in one piece, which is cut."""
    values = decode_values(b"".join(chunk.payload for chunk in chunks), codec, sum(sizes(shapes))).numpy()
    at = 0
    for name, size in zip(shapes, sizes(shapes), strict=True):
        for start in range(0, size, CHUNK):
            n = min(CHUNK, size - start)
            yield Part(name, start, n, None, values[at : at + n])
            at += n


def unpack_each(chunks: Chunks, shapes: Shapes, codec: CodecName) -> Iterator[Part]:
    waiting = iter(chunks)
    for name, size in zip(shapes, sizes(shapes), strict=True):
        for start in range(0, size, CHUNK):
            n, chunk = min(CHUNK, size - start), next(waiting)
            split, payload = code_bytes(n, chunk.k), memoryview(chunk.payload)  # a slice copies nothing
            indices = None if chunk.k == n else decode_indices(payload[:split], n, chunk.k)
            values = decode_values(payload[split:], codec, chunk.k)
            yield Part(name, start, n, indices, values.numpy())
