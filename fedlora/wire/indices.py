"""Which k of n values are sent, near log2 C(n, k) bits: a bitmap where that is shorter, Elias-Fano below.

Elias-Fano: the low l = floor(log2(n / k)) bits of each index as they are, the high parts in unary in
k + floor(n / 2^l) + 1 bits: about 2 + log2(n / k) bits an index. Which of the two is used, and how long it is, follows
from (n, k) alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fedlora.wire.kernels import Places, kernels

Indices = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]
Coded = bytes | memoryview
LENGTHS = 1 << 12  # of so many (n, k) the lengths are remembered: those of one message are much alike


class IndexCodeError(ValueError):
    """Invalid index code: not increasing, out of range, wrong length, or padding that is not zero."""


@lru_cache(maxsize=LENGTHS)
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


@lru_cache(maxsize=LENGTHS)
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


def decode_indices(code: Coded, n: int, k: int) -> Places:
    """The indices; IndexCodeError for anything that `encode_indices` would not have written."""
    if len(code) != code_bytes(n, k):
        raise IndexCodeError(f"an index code of {k} of {n} has {code_bytes(n, k)} bytes, got {len(code)}")
    if k in (0, n):
        return np.arange(k, dtype=np.int32)
    loops, coded = kernels(n), np.frombuffer(code, dtype=np.uint8)
    parts = elias_fano_bytes(n, k)
    if bitmap_bytes(n) <= sum(parts):
        indices = places_of_ones(coded, k, loops)
    else:
        low, lows = low_bits(n, k), coded[: parts[0]]
        indices = places_of_ones(coded[parts[0] :], k, loops)
        if k * low % 8 and lows[-1] & (0xFF >> (k * low % 8)):
            raise IndexCodeError("padding bits are not zero")
        if not (join_lows(lows, low, indices) if loops is None else loops.join_lows(lows, low, indices)):
            raise IndexCodeError("indices are not strictly increasing")
    if indices[-1] >= n:
        raise IndexCodeError(f"an index or a padding bit is not below {n}")
    return indices


def places_of_ones(code: Codes, k: int, loops: Any) -> Places:
    """Positions of the k ones in a bit string."""
    if loops is None:
        places = np.flatnonzero(np.unpackbits(code)).astype(np.int32)
        count = len(places)
    else:
        places = np.empty(k + 8, dtype=np.int32)
        count = loops.ones_of(code, places)
    if count != k:
        raise IndexCodeError(f"the code does not have {k} ones")
    return places[:k]


def join_lows(lows: Codes, low: int, indices: Places) -> bool:
    """Like the compiled loop of this name: turns positions into indices; returns whether they strictly increase."""
    k = len(indices)
    digits = np.unpackbits(lows)[: k * low].reshape(k, low).astype(np.int32)
    indices -= np.arange(k, dtype=np.int32)
    indices <<= low
    indices |= digits @ (1 << np.arange(low - 1, -1, -1, dtype=np.int32))
    return not bool(np.any(np.diff(indices) <= 0))
