"""Dense messages: named float32 tensors with a checked header, as safetensors bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlora.updates import Tensors, norm


class WireError(ValueError):
    """A message that cannot be used; `code` is stable, stored and shown."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Schema:
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Tensors) -> Schema:
        return cls({name: tuple(tensor.shape) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Header:
    kind: str
    run: str
    round: int
    base_hash: str = ""


@dataclass(frozen=True)
class Expected:
    kind: str
    run: str
    round: int
    base_hash: bytes
    max_norm: float


@dataclass(frozen=True)
class Message:
    header: Header
    tensors: dict[str, Tensor]


def state_hash(tensors: Tensors) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def encode(tensors: Tensors, header: Header) -> bytes:
    return bytes(save({n: t.contiguous() for n, t in tensors.items()}, metadata={"header": json.dumps(asdict(header))}))


def decode(blob: bytes, schema: Schema, expected: Expected) -> Message:
    try:
        tensors = load(blob)
        size = int.from_bytes(blob[:8], "little")
        header = Header(**json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["header"]))
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise WireError("malformed-update") from None
    if (header.kind, header.run, header.round) != (expected.kind, expected.run, expected.round):
        raise WireError("wrong-task")
    if header.base_hash != expected.base_hash.hex():
        raise WireError("wrong-base-state")
    if Schema.of(tensors).shapes != dict(schema.shapes):
        raise WireError("wrong-schema")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise WireError("not-finite")
    if norm(tensors) > expected.max_norm:
        raise WireError("norm-out-of-range")
    return Message(header, {name: tensors[name] for name in schema.shapes})
