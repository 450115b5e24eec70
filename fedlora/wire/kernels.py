"""The inner loops of packing, as plain Python that numba compiles where it is installed.

As Python they are the slow clear twins that tests compare with; compiled they replace what numpy
does (`topk.py`, `indices.py`, `values.py`) where numba is missing. Same bits either way. Compilation
takes a second or two, once per machine, and begins with the first chunk of `LEAST` values.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 1 << 12
"""Chunks with fewer values are quick enough without, and small runs need not compile anything."""

Bits = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


def kernels(values: int) -> Any:
    """The compiled loops, by name, for that many values; None where they would not pay or numba is not there."""
    return compiled() if values >= LEAST else None


@lru_cache(maxsize=1)
def compiled() -> Any:
    try:
        numba = importlib.import_module("numba")
        return SimpleNamespace(**{loop.__name__: numba.njit(cache=True, nogil=True)(loop) for loop in LOOPS})
    except (ImportError, RuntimeError):  # not installed, or nowhere to keep what it compiles
        return None


def at_least(bits: Bits, lowest: int, indices: Bits, found: Bits) -> int:
    """Positions and magnitudes (float bits without their sign) of all values from `lowest` on; how many there are.

    Writes one place beyond the last: no branch to mispredict. Stops when the space is used up.
    """
    count: int = 0
    for i in range(len(bits)):
        magnitude = bits[i] & 0x7FFFFFFF
        indices[count] = i
        found[count] = magnitude
        count += int(magnitude >= lowest)
        if count == len(indices):
            return count
    return count


def largest(indices: Bits, found: Bits, smallest: int, ties: int, chosen: npt.NDArray[np.int64]) -> None:
    """The indices of all that is larger than `smallest`, and of the first `ties` that are equal to it."""
    count = 0
    for i in range(len(found)):
        magnitude = found[i]
        if magnitude > smallest or (magnitude == smallest and ties > 0):
            chosen[count] = indices[i]
            count += 1
            ties -= int(magnitude == smallest)


def elias_fano_into(indices: npt.NDArray[np.int64], low: int, lows: Bytes, highs: Bytes) -> None:
    """Write an Elias-Fano code, most significant bit first, into bytes that are zero."""
    for i in range(len(indices)):
        index = indices[i]
        for bit in range(low):
            at = i * low + bit
            lows[at >> 3] |= ((index >> (low - 1 - bit)) & 1) << (7 - (at & 7))
        place = (index >> low) + i
        highs[place >> 3] |= 1 << (7 - (place & 7))


def elias_fano_from(lows: Bytes, highs: Bytes, low: int, n: int, indices: npt.NDArray[np.int64]) -> bool:
    """Read one; False where it is none: too few or many ones, not increasing, out of range, padding."""
    k, count, previous = len(indices), 0, -1
    buffer, held, at = 0, 0, 0
    for byte in range(len(highs)):
        word = int(highs[byte])
        while word:
            lead = 0
            while not word & (128 >> lead):
                lead += 1
            word &= ~(128 >> lead) & 255
            if count == k:
                return False
            while held < low:
                buffer = ((buffer << 8) | int(lows[at])) & 0xFFFFFFFF
                held += 8
                at += 1
            held -= low
            index = ((byte * 8 + lead - count) << low) | ((buffer >> held) & ((1 << low) - 1))
            if index <= previous or index >= n:
                return False
            indices[count] = index
            previous = index
            count += 1
    return count == k and at == len(lows) and (buffer & ((1 << held) - 1)) == 0


def nibbles_into(values: Floats, scales: Floats, block: int, code: Bytes) -> None:
    """int4 codes of values, two a byte, into bytes that are zero."""
    for i in range(len(values)):
        scale = scales[i // block]
        unit = np.rint(values[i] / scale) if scale > 0 else np.float32(0)
        nibble = int(min(max(unit, np.float32(-7)), np.float32(7))) + 8
        code[i >> 1] |= nibble << (0 if i & 1 else 4)


def nibbles_from(code: Bytes, scales: Floats, block: int, values: Floats) -> bool:
    """Values of int4 codes; False where a nibble is one that is never written."""
    k = len(values)
    for i in range(k):
        nibble = (int(code[i >> 1]) >> (0 if i & 1 else 4)) & 15
        if nibble == 0:
            return False
        values[i] = np.float32(nibble - 8) * scales[i // block]
    return not k & 1 or code[k >> 1] & 15 == 0


def add_at(total: npt.NDArray[Any], indices: npt.NDArray[np.int64], values: Floats, scale: float) -> None:
    """total[indices] += scale · values; no index twice."""
    for i in range(len(indices)):
        at = indices[i]
        total[at] = float(total[at]) + scale * float(values[i])


LOOPS: tuple[Callable[..., Any], ...] = (
    at_least, largest, elias_fano_into, elias_fano_from, nibbles_into, nibbles_from, add_at,
)  # fmt: skip
