"""Which k of n values are sent, near log2 C(n, k) bits: a bitmap where that is shorter, Elias-Fano below.

Elias-Fano: the low l = floor(log2(n / k)) bits of each index as they are, the high parts in unary in
k + floor(n / 2^l) + 1 bits: about 2 + log2(n / k) bits an index. Which of the two is used, and how long it is, follows
from (n, k) alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedlora.wire.kernels import kernels

Indices = npt.NDArray[np.int64]


class IndexCodeError(ValueError):
    """Bytes that are no index code of k of n: not increasing, out of range, wrong length, padding that is not zero."""


def code_bytes(n: int, k: int) -> int:
    """Length of the code; 0 where nothing is left out or nothing is sent.

    >>> code_bytes(1024, 0), code_bytes(1024, 1024), code_bytes(1024, 512), code_bytes(1 << 16, 1 << 12)
    (0, 0, 128, 3073)
    """
    if k in (0, n):
        return 0
    return min(bitmap_bytes(n), sum(elias_fano_bytes(n, k)))


def bitmap_bytes(n: int) -> int:
    return (n + 7) // 8


def low_bits(n: int, k: int) -> int:
    return max(0, (n // k).bit_length() - 1)


def elias_fano_bytes(n: int, k: int) -> tuple[int, int]:
    """Lengths of the low and of the high part."""
    low = low_bits(n, k)
    return (k * low + 7) // 8, (k + (n >> low) + 1 + 7) // 8


def encode_indices(indices: Indices, n: int) -> bytes:
    """Code strictly increasing indices in [0, n)."""
    k = len(indices)
    if code_bytes(n, k) == 0:
        return b""
    if bitmap_bytes(n) <= sum(elias_fano_bytes(n, k)):
        bits = np.zeros(n, dtype=np.uint8)
        bits[indices] = 1
        return np.packbits(bits).tobytes()
    low = low_bits(n, k)
    if (loops := kernels(n)) is not None:
        low_part, high_part = (np.zeros(size, dtype=np.uint8) for size in elias_fano_bytes(n, k))
        loops.elias_fano_into(indices, low, low_part, high_part)
        return low_part.tobytes() + high_part.tobytes()
    high = np.zeros(k + (n >> low) + 1, dtype=np.uint8)
    high[(indices >> low) + np.arange(k)] = 1
    digits = (indices[:, None] >> np.arange(low - 1, -1, -1)) & 1
    return np.packbits(digits.astype(np.uint8)).tobytes() + np.packbits(high).tobytes()


def decode_indices(code: bytes, n: int, k: int) -> Indices:
    """The indices; IndexCodeError for anything that `encode_indices` would not have written."""
    if len(code) != code_bytes(n, k):
        raise IndexCodeError(f"an index code of {k} of {n} has {code_bytes(n, k)} bytes, got {len(code)}")
    if k in (0, n):
        return np.arange(k, dtype=np.int64)
    if bitmap_bytes(n) <= sum(elias_fano_bytes(n, k)):
        indices = np.flatnonzero(unpacked(code, n)).astype(np.int64)
        if len(indices) != k:
            raise IndexCodeError("the bitmap does not have k ones")
        return indices
    low = low_bits(n, k)
    split, _ = elias_fano_bytes(n, k)
    if (loops := kernels(n)) is not None:
        coded, indices = np.frombuffer(code, dtype=np.uint8), np.empty(k, dtype=np.int64)
        if not loops.elias_fano_from(coded[:split], coded[split:], low, n, indices):
            raise IndexCodeError("not increasing, out of range, or padding that is not zero")
        return indices
    ones = np.flatnonzero(unpacked(code[split:], k + (n >> low) + 1)).astype(np.int64)
    if len(ones) != k:
        raise IndexCodeError("the high part does not have k ones")
    digits = unpacked(code[:split], k * low).reshape(k, low).astype(np.int64)
    lows = digits @ (1 << np.arange(low - 1, -1, -1, dtype=np.int64))
    indices = ((ones - np.arange(k)) << low) | lows
    if indices[-1] >= n or bool(np.any(np.diff(indices) <= 0)):
        raise IndexCodeError("indices are not strictly increasing below n")
    return indices


def unpacked(code: bytes, bits: int) -> npt.NDArray[np.uint8]:
    """The bits of `code`; those beyond `bits` must be zero."""
    found = np.unpackbits(np.frombuffer(code, dtype=np.uint8))
    if bool(np.any(found[bits:])):
        raise IndexCodeError("padding bits are not zero")
    return found[:bits]
