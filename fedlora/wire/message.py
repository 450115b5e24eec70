"""One message as one packed blob: validate everything, then hand it over. The format is `update.proto`.

Guarantees of `decode`, for any bytes whatever:
 1. It returns a message that is valid in every respect, or raises WireError with a stable code; nothing else.
 2. What is longer than any message of the schema is not parsed, and nothing is allocated for what the bytes claim:
    names, shapes and sizes come from the receiver's own schema, and every length is compared with what (codec, n, k)
    say before anything is unpacked.
 3. Indices are strictly increasing and in range, padding is zero, every value is finite, the L2 norm is within bounds.
 4. Run, round, sender's base state, schema and codec are the expected ones.
 5. Equal tensors have equal bodies: there is one encoding.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from fedlora.updates import Tensors
from fedlora.wire import update_pb2 as pb
from fedlora.wire.chunks import Part, chunk_sizes, chunks_of, unpack, whole_chunks
from fedlora.wire.indices import IndexCodeError, code_bytes
from fedlora.wire.kernels import Floats, kernels
from fedlora.wire.packing import CodecName
from fedlora.wire.values import DTYPES, SPARSE, ValueCodeError, value_bytes

FORMAT = 1
ENVELOPE, CHUNK_FRAME = 1 << 16, 64  # bytes, generous: the header with every name in it; lengths, k and checksum
CODECS: dict[CodecName, pb.Codec] = {
    "fp32": pb.FP32, "fp16": pb.FP16, "bf16": pb.BF16, "int8": pb.INT8, "int4": pb.INT4, "sign": pb.SIGN,
}  # fmt: skip
NAMES = {number: name for name, number in CODECS.items()}
Kind = Literal["update", "state", "change", "turn"]
"""A client's update, a whole state (`fedlora.wire.state`), or a link between two (`fedlora.wire.changes`)."""


class WireError(ValueError):
    """A message that cannot be used; `code` is stable, stored and shown."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Schema:
    """Names and shapes, in order, that both sides know; only the hash travels."""

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Tensors) -> Schema:
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()})

    @property
    def hash(self) -> bytes:
        described = "\n".join(f"{name}:{','.join(map(str, shape))}" for name, shape in self.shapes.items())
        return hashlib.blake2b(described.encode(), digest_size=16).digest()

    def chunk_sizes(self) -> Iterator[int]:
        return chunk_sizes(self.shapes)


@dataclass(frozen=True)
class Header:
    """A message's header."""

    kind: Kind
    run: str
    round: int
    client: str = ""
    strategy: str = ""
    base_hash: bytes = b""
    residual_ranks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Expected:
    """The header that the receiver expects. `codec` None accepts every codec."""

    kind: Kind
    run: str
    round: int
    base_hash: bytes = b""
    max_norm: float = float("inf")
    codec: CodecName | None = None


@dataclass(frozen=True)
class Message:
    """A valid decoded message, as sparse as it was sent."""

    header: Header
    codec: CodecName
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    parts: tuple[Part, ...] = field(repr=False)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The dense tensors: values that were sent, zero elsewhere."""
        zeros = {name: torch.zeros(shape) for name, shape in self.shapes.items()}
        self.add_to(zeros)
        return zeros

    def add_to(self, totals: Tensors, *, scale: float = 1.0) -> None:
        """totals += scale · tensors, in place (float32 or float64, contiguous); touches only what was sent."""
        for part in self.parts:
            total = totals[part.name].view(-1).numpy()[part.start : part.start + part.n]
            if part.indices is None:
                total += part.values if scale == 1.0 else scale * part.values.astype(np.float64)
            elif (loops := kernels(part.n)) is not None:
                loops.add_at(total, part.indices, part.values, scale)
            else:
                total[part.indices] = total[part.indices] + scale * part.values.astype(np.float64)

    def added_to(self, base: Tensors) -> dict[str, Tensor]:
        """base + tensors, leaving `base` as it is."""
        totals = {name: base[name].clone(memory_format=torch.contiguous_format) for name in self.shapes}
        self.add_to(totals)
        return totals

    @property
    def norm(self) -> float:
        """L2 norm of all values together, accumulated in float64."""
        return math.sqrt(sum(map(squares_of, (part.values for part in self.parts))))


def squares_of(values: Floats) -> float:
    """Sum of the squares, in float64."""
    loops = kernels(SPARSE * len(values))
    return float(np.square(values, dtype=np.float64).sum() if loops is None else loops.squares_of(values))


def state_hash(tensors: Tensors) -> bytes:
    """16 bytes that name a state: equal exactly for equal names and values. Minus zero is zero, as codecs send it."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update((tensor.detach().float() + 0.0).contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def encode(
    tensors: Tensors,
    header: Header,
    *,
    codec: CodecName = "fp32",
    density: float | Mapping[str, float] = 1.0,
    omit_zeros: bool = False,
    sign: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Pack float tensors; of each tensor the `density` share of largest magnitude (at least one value) is sent, of all
    the same or one for each name.

    `omit_zeros`: nothing of a tensor of zeros, and no zeros of a sparse one; a message's length then tells of them.

    WireError `not-finite` when a value is not finite or does not fit the codec.
    """
    body = pb.Body(
        format=FORMAT, kind=header.kind, run=header.run, round=header.round, client=header.client,
        strategy=header.strategy, base_hash=header.base_hash, schema_hash=Schema.of(tensors).hash,
        codec=CODECS[codec], residual_ranks=header.residual_ranks,
    )  # fmt: skip
    try:
        if density == 1.0 and codec in DTYPES and not omit_zeros and tensors:
            body.chunks.extend(whole_chunks(tensors, codec))
        else:
            for name, tensor in tensors.items():
                share = density[name] if isinstance(density, Mapping) else density
                body.chunks.extend(chunks_of(tensor.detach().float().flatten(), codec, share, omit_zeros))
    except ValueCodeError:
        raise WireError("not-finite") from None
    packed = body.SerializeToString(deterministic=True)
    digest = hashlib.sha256(packed).digest()
    return pb.Envelope(body=packed, sha256=digest, signature=sign(digest) if sign else b"").SerializeToString()


def decode(
    blob: bytes, schema: Schema, expected: Expected, *, verify: Callable[[bytes, bytes], bool] | None = None
) -> Message:
    """The message in `blob`; see the guarantees above. `verify(sha256, signature)` says whether it is the sender's."""
    if len(blob) > largest_bytes(schema):
        raise WireError("too-large")
    body = open_body(blob, verify)
    require_expected(body, schema, expected)
    ranks = tuple(body.residual_ranks)
    header = Header(expected.kind, body.run, body.round, body.client, body.strategy, body.base_hash, ranks)
    codec = NAMES[body.codec]
    check_lengths(body, schema, codec)
    try:
        parts = tuple(unpack(body.chunks, schema.shapes, codec))
    except IndexCodeError:
        raise WireError("bad-indices") from None
    except ValueCodeError:
        raise WireError("bad-values") from None
    message = Message(header, codec, schema.shapes, parts)
    if not message.norm <= expected.max_norm:
        raise WireError("norm-out-of-range")
    return message


def largest_bytes(schema: Schema) -> int:
    """Upper bound on a message's length for this schema: float32 values, a bit for each index, and headers."""
    return ENVELOPE + sum(5 * n + CHUNK_FRAME for n in schema.chunk_sizes())


def open_body(blob: bytes, verify: Callable[[bytes, bytes], bool] | None) -> pb.Body:
    """Signature before content: nothing inside is looked at until the envelope is in order."""
    try:
        envelope = pb.Envelope.FromString(blob)
        envelope.DiscardUnknownFields()
        if envelope.SerializeToString() != blob:
            raise WireError("not-canonical")
        if hashlib.sha256(envelope.body).digest() != envelope.sha256:
            raise WireError("corrupt")
        if verify is not None and not verify(envelope.sha256, envelope.signature):
            raise WireError("bad-signature")
        body = pb.Body.FromString(envelope.body)
        body.DiscardUnknownFields()
    except DecodeError:
        raise WireError("malformed-update") from None
    if body.SerializeToString(deterministic=True) != envelope.body:
        raise WireError("not-canonical")
    return body


def require_expected(body: pb.Body, schema: Schema, expected: Expected) -> None:
    if body.format != FORMAT:
        raise WireError("unknown-format")
    if (body.kind, body.run, body.round) != (expected.kind, expected.run, expected.round):
        raise WireError("wrong-task")
    if body.base_hash != expected.base_hash:
        raise WireError("wrong-base-state")
    if body.schema_hash != schema.hash:
        raise WireError("wrong-schema")
    if body.codec not in NAMES or (expected.codec is not None and NAMES[body.codec] != expected.codec):
        raise WireError("wrong-codec")


def check_lengths(body: pb.Body, schema: Schema, codec: CodecName) -> None:
    """Every chunk has the length that its k implies, and its checksum, before any is unpacked."""
    sizes = list(schema.chunk_sizes())
    if len(body.chunks) != len(sizes):
        raise WireError("wrong-length")
    for chunk, n in zip(body.chunks, sizes, strict=True):
        if chunk.k > n or len(chunk.payload) != code_bytes(n, chunk.k) + value_bytes(codec, chunk.k):
            raise WireError("wrong-length")
        if zlib.crc32(chunk.payload) != chunk.crc32:
            raise WireError("corrupt")
