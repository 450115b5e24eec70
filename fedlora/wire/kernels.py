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
"""Smallest chunk for the compiled loops: smaller ones are fast enough without, and small runs need no compilation."""

Bits = npt.NDArray[np.int32]
Places = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

BLOCK = 1 << 12  # values that `few_at_least` looks at in one go
ONES = [[place for place in range(8) if byte & (128 >> place)] for byte in range(256)]
COUNTS = np.array([len(ones) for ones in ONES], dtype=np.uint8)
PLACES = np.array([(ones + 8 * [0])[:8] for ones in ONES], dtype=np.uint8)
"""For every byte: the number and positions of its ones, most significant bit first."""


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


def few_at_least(bits: Bits, lowest: int, indices: Bits, found: Bits) -> int:
    """The same where most values are smaller; it stops where there might be no room.

    Three loops over a block that stays in the cache: mark, note the eights with a mark in them, write those out.
    """
    marks, noted, count = np.empty(BLOCK, dtype=np.uint8), np.empty(BLOCK // 8 + 1, dtype=np.int64), 0
    eights = marks.view(np.uint64)
    for start in range(0, len(bits), BLOCK):
        block = bits[start : start + BLOCK]
        marks[len(block) :] = 0
        for i in range(len(block)):
            marks[i] = (block[i] & 0x7FFFFFFF) >= lowest
        filled = 0
        for eight in range(len(eights)):
            noted[filled] = eight
            filled += int(eights[eight] != 0)
        if count + 8 * filled > len(indices):
            return len(indices)
        for i in range(filled):
            first = 8 * noted[i]
            for j in range(8):
                indices[count] = start + first + j
                count += int(marks[first + j])
    for i in range(count):
        found[i] = bits[indices[i]] & 0x7FFFFFFF
    return count


def tally(found: Bits, lowest: int, shift: int, counts: npt.NDArray[np.int64]) -> None:
    """Histogram of magnitudes: counts per 2^shift from `lowest` on."""
    for i in range(len(found)):
        counts[(found[i] - lowest) >> shift] += 1


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


def ones_of(code: Bytes, places: Places) -> int:
    """Positions of the ones in a bit string, most significant bit first; how many there are, or at least one too many.

    `places` has room for 8 more than there should be: every byte writes 8 and counts those that are ones.
    """
    count: int = 0
    for byte in range(len(code)):
        if count > len(places) - 8:
            return count
        bits = code[byte]
        for j in range(8):
            places[count + j] = 8 * byte + np.int32(PLACES[bits, j])
        count += int(COUNTS[bits])
    return count


def join_lows(lows: Bytes, low: int, indices: Places) -> bool:
    """Turn the positions of the ones in an Elias-Fano code's high part into indices; returns whether they strictly
    increase."""
    k = len(indices)
    groups = k // 8 if low <= 8 else 0  # of 8 indices: their low parts are `low` whole bytes, one word at most
    mask = np.uint64((1 << low) - 1)
    for group in range(groups):
        word = np.uint64(0)
        for at in range(group * low, group * low + low):
            word = (word << np.uint64(8)) | np.uint64(lows[at])
        for j in range(8):
            i = 8 * group + j
            indices[i] = ((indices[i] - i) << low) | np.int32((word >> np.uint64(low * (7 - j))) & mask)
    for i in range(8 * groups, k):
        index = indices[i] - i
        for at in range(i * low, i * low + low):
            index = (index << 1) | ((lows[at >> 3] >> (7 - (at & 7))) & 1)
        indices[i] = index
    falls = 0
    for i in range(1, k):
        falls += int(indices[i] <= indices[i - 1])
    return falls == 0


def nibbles_into(values: Floats, scales: Floats, block: int, code: Bytes) -> None:
    """int4 codes of values, two a byte, into bytes that are zero."""
    for i in range(len(values)):
        scale = scales[i // block]
        unit = np.rint(values[i] / scale) if scale > 0 else np.float32(0)
        nibble = int(min(max(unit, np.float32(-7)), np.float32(7))) + 8
        code[i >> 1] |= nibble << (0 if i & 1 else 4)


def nibbles_from(code: Bytes, scales: Floats, block: int, values: Floats) -> bool:
    """Values of int4 codes; False where a nibble is one that is never written."""
    k, half, never = len(values), block // 2, 0
    for i in range(len(scales)):
        scale, decoded = scales[i], values[i * block : (i + 1) * block]
        pairs = code[i * half : min((i + 1) * half, k // 2)]
        for j in range(len(pairs)):
            first, second = np.int32(pairs[j] >> 4), np.int32(pairs[j] & 15)
            never += int(first == 0) + int(second == 0)
            decoded[2 * j] = np.float32(first - 8) * scale
            decoded[2 * j + 1] = np.float32(second - 8) * scale
    if k & 1:
        last = np.int32(code[k // 2])
        never += int(last < 16) + int(last & 15 != 0)
        values[k - 1] = np.float32((last >> 4) - 8) * scales[len(scales) - 1]
    return never == 0


def squares_of(values: Floats) -> float:
    """Sum of the squares, in float64: four sums at a time, because one would wait for itself."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    whole = len(values) - len(values) % 4
    for i in range(0, whole, 4):
        a += float(values[i]) ** 2
        b += float(values[i + 1]) ** 2
        c += float(values[i + 2]) ** 2
        d += float(values[i + 3]) ** 2
    for i in range(whole, len(values)):
        a += float(values[i]) ** 2
    return a + b + c + d


def add_at(total: npt.NDArray[Any], indices: Places, values: Floats, scale: float) -> None:
    """total[indices] += scale · values; no index twice."""
    for i in range(len(indices)):
        at = indices[i]
        total[at] = float(total[at]) + scale * float(values[i])


LOOPS: tuple[Callable[..., Any], ...] = (
    at_least, few_at_least, tally, largest, elias_fano_into, ones_of, join_lows,
    nibbles_into, nibbles_from, squares_of, add_at,
)  # fmt: skip
