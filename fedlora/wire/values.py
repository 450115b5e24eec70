"""The k values of a chunk as bytes. Every length is a pure function of (codec, k); every value has one encoding.

fp32, fp16, bf16   as they are                     int8, int4   a bfloat16 scale for 64 (128) values, then the codes
sign               a bfloat16 scale for 1024 values (their mean magnitude), then one bit each

Scales are bfloat16, rounded up: float16's subnormals would lose an update of 1e-3 (its int8 scale is 8e-6), and a scale
rounded down would clip the largest value.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedlora.wire.indices import LENGTHS, Coded, Codes
from fedlora.wire.kernels import kernels
from fedlora.wire.packing import CodecName

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BLOCK = {"int8": 64, "int4": 128, "sign": 1024}
BITS = {"int8": 8, "int4": 4, "sign": 1}
LARGEST = {"int8": 127, "int4": 7}
MAX_SCALE = 2.0**16  # a bfloat16, so that rounding up stays within
MAX_STORED = 0x4780  # its code; those of negative numbers, minus zero, NaN and infinity are all larger
SPARSE = 16  # k values stand for a chunk of about so many times more


class ValueCodeError(ValueError):
    """Invalid value code: not finite, a scale out of bounds, a code that is never written, or padding that is not
    zero."""


@lru_cache(maxsize=LENGTHS)
def value_bytes(codec: CodecName, k: int) -> int:
    """Length of the code of k values.

    >>> [value_bytes(codec, 1000) for codec in ("fp32", "fp16", "int8", "int4", "sign")]
    [4000, 2000, 1032, 516, 127]
    """
    if codec in DTYPES:
        return k * DTYPES[codec].itemsize
    return 2 * blocks(codec, k) + (k * BITS[codec] + 7) // 8


def blocks(codec: CodecName, k: int) -> int:
    return -(-k // BLOCK[codec])


def encode_values(values: Tensor, codec: CodecName) -> bytes:
    """Code a flat float32 tensor; ValueCodeError where the codec cannot hold it."""
    if codec in DTYPES:
        cast = values.to(DTYPES[codec])
        if not bool(torch.isfinite(cast).all()):
            raise ValueCodeError(f"a value is not finite in {codec}")
        return bytes(cast.contiguous().view(torch.uint8).numpy().tobytes())
    padded = np.zeros((blocks(codec, len(values)), BLOCK[codec]), dtype=np.float32)
    padded.ravel()[: len(values)] = values.numpy()
    magnitude = np.abs(padded)
    if codec == "sign":
        counts = np.minimum(BLOCK[codec], len(values) - BLOCK[codec] * np.arange(len(padded)))
        scales = magnitude.sum(1) / np.maximum(counts, 1).astype(np.float32)
    else:
        scales = magnitude.max(1, initial=0.0) / LARGEST[codec]
    if not bool(np.all(scales <= MAX_SCALE)):
        raise ValueCodeError(f"a value is not finite or too large for {codec}")
    stored = ((scales.view(np.uint32).astype(np.uint64) + 0xFFFF) >> 16).astype("<u2")
    return bytes(stored.tobytes()) + codes_of(padded, from_bfloat16(stored), codec, len(values))


def from_bfloat16(halves: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return (halves.astype(np.uint32) << 16).view(np.float32)


def codes_of(padded: npt.NDArray[np.float32], scales: npt.NDArray[np.float32], codec: CodecName, k: int) -> bytes:
    if codec == "sign":
        return np.packbits(padded.ravel()[:k] > 0).tobytes()
    if codec == "int4" and (loops := kernels(SPARSE * k)) is not None:
        code = np.zeros((k + 1) // 2, dtype=np.uint8)
        loops.nibbles_into(padded.ravel()[:k], scales, BLOCK[codec], code)
        return code.tobytes()
    safe = np.where(scales > 0, scales, 1.0)[:, None]
    largest = LARGEST[codec]
    codes = np.clip(np.rint(padded / safe), -largest, largest).astype(np.int8)
    codes[scales == 0] = 0
    flat = codes.ravel()[:k]
    if codec == "int8":
        return flat.tobytes()
    nibbles = (flat + 8).astype(np.uint8)
    pairs = np.zeros(2 * ((k + 1) // 2), dtype=np.uint8)
    pairs[:k] = nibbles
    return ((pairs[0::2] << 4) | pairs[1::2]).tobytes()


def decode_values(code: Coded, codec: CodecName, k: int) -> Tensor:
    """The values as float32; ValueCodeError for anything that `encode_values` would not have written."""
    if len(code) != value_bytes(codec, k):
        raise ValueCodeError(f"{k} values in {codec} have {value_bytes(codec, k)} bytes, got {len(code)}")
    if k == 0:
        return torch.empty(0)
    if codec in DTYPES:
        values = torch.frombuffer(bytearray(code), dtype=DTYPES[codec]).float()
        if not bool(torch.isfinite(values).all()):
            raise ValueCodeError("a value is not finite")
        return values
    count = blocks(codec, k)
    stored, coded = np.frombuffer(code, "<u2", count), np.frombuffer(code, np.uint8, offset=2 * count)
    if stored.max() > MAX_STORED:
        raise ValueCodeError("a scale is negative, not finite or too large")
    scales = from_bfloat16(stored)
    if codec == "int4" and (loops := kernels(SPARSE * k)) is not None:
        decoded = np.empty(k, dtype=np.float32)
        if not loops.nibbles_from(coded, scales, BLOCK[codec], decoded):
            raise ValueCodeError("a nibble has a value that is never written")
        return torch.from_numpy(decoded)
    return torch.from_numpy(units_of(coded, codec, k) * np.repeat(scales, BLOCK[codec])[:k])


def units_of(code: Codes, codec: CodecName, k: int) -> npt.NDArray[np.float32]:
    """The values in units of their scale."""
    if codec == "sign":
        bits = np.unpackbits(code)
        if bool(np.any(bits[k:])):
            raise ValueCodeError("padding bits are not zero")
        return bits[:k].astype(np.float32) * 2 - 1
    if codec == "int8":
        signed = code.view(np.int8)
        if bool(np.any(signed == -128)):
            raise ValueCodeError("the value -128 is not valid")
        return signed.astype(np.float32)
    nibbles = np.stack([code >> 4, code & 15], 1).ravel()
    if bool(np.any(nibbles[:k] == 0)) or bool(np.any(nibbles[k:])):
        raise ValueCodeError("a nibble has a value that is never written")
    return nibbles[:k].astype(np.float32) - 8
