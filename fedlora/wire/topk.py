"""Exact top-k by magnitude, without sorting: the bits of a non-negative float are in the order of the floats.

A sample says above which magnitude about 1.1 k values lie; one pass collects them, a partition finds the k-th. A sample
that was wrong costs time, not exactness: then, and where numba is missing, one histogram over the high bits does it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedlora.wire.indices import Indices
from fedlora.wire.kernels import BLOCK, Bits, kernels

SAMPLE, BUCKETS = 1 << 12, 1 << 12
MANY = 1 << 14  # of fewer, partitioning all is as quick
FEW = 1 / 32  # below it, most eights have nothing to collect


def top_k(values: Tensor, k: int) -> Indices:
    """Increasing indices of the k values of largest magnitude in a flat float32 tensor; ties go to the lower index."""
    n = values.numel()
    if k >= n:
        return np.arange(n, dtype=np.int64)
    if k == 0:
        return np.empty(0, dtype=np.int64)
    bits: Bits = values.detach().contiguous().view(torch.int32).numpy()
    loops = kernels(n)
    found = None if loops is None else top_k_by_sample(bits, k, loops)
    return top_k_by_histogram(bits, k) if found is None else found


def top_k_by_sample(bits: Bits, k: int, loops: Any) -> Indices | None:
    """The top k from a sample's threshold; None if it let too few or too many values through."""
    n = len(bits)
    sample = bits[:: max(1, n // SAMPLE) | 1] & 0x7FFFFFFF  # an odd stride: r is often a power of two
    share = k / n
    above = math.ceil(len(sample) * share + 4 * math.sqrt(len(sample) * share * (1 - share)) + 4)
    lowest = 0 if above >= len(sample) else int(np.partition(sample, len(sample) - above)[len(sample) - above])
    lowest = max(lowest, 1)  # zeros are many where a tensor is sparse, and are rarely among the largest
    room = min(n, 2 * k + SAMPLE) + BLOCK
    indices, found = np.empty(room, dtype=np.int32), np.empty(room, dtype=np.int32)
    collect = loops.few_at_least if k < FEW * n else loops.at_least
    count = int(collect(bits, lowest, indices, found))
    if not k <= count < room:
        return None
    found = found[:count]
    smallest = kth_largest(found, k, lowest, loops)
    ties = k - int(np.count_nonzero(found > smallest))
    chosen = np.empty(k, dtype=np.int64)
    loops.largest(indices[:count], found, smallest, ties, chosen)
    return chosen


def kth_largest(found: Bits, k: int, lowest: int, loops: Any) -> int:
    """Of many, a histogram first, then the bucket on the boundary alone; none is smaller than `lowest`."""
    if len(found) < MANY:
        return int(np.partition(found, len(found) - k)[len(found) - k])
    shift = max(0, (int(found.max()) - lowest).bit_length() - BUCKETS.bit_length() + 1)
    counts = np.zeros(BUCKETS, dtype=np.int64)
    loops.tally(found, lowest, shift, counts)
    from_top = np.cumsum(counts[::-1])
    bucket = BUCKETS - 1 - int(np.searchsorted(from_top, k))
    rank = int(from_top[BUCKETS - 1 - bucket]) - k  # of the k-th, from the bottom of its bucket
    first = lowest + (bucket << shift)
    within = found[(found >= first) & (found - first < 1 << shift)]
    return int(np.partition(within, rank)[rank])


def top_k_by_histogram(bits: Bits, k: int) -> Indices:
    """One histogram over the high half of the bits, then the bucket on the boundary alone."""
    magnitudes = bits & 0x7FFFFFFF
    high = (magnitudes >> 16).astype(np.uint16)
    counts = np.bincount(high, minlength=1 << 15)
    from_top = np.cumsum(counts[::-1])
    bucket = (1 << 15) - 1 - int(np.searchsorted(from_top, k))
    above = int(from_top[(1 << 15) - 1 - bucket] - counts[bucket])
    boundary = np.flatnonzero(high == bucket)
    order = np.argsort(-magnitudes[boundary].astype(np.int64), kind="stable")[: k - above]
    chosen = high > bucket
    chosen[boundary[order]] = True
    return np.flatnonzero(chosen)


def top_k_by_sorting(values: Tensor, k: int) -> Indices:
    """The slow clear twin."""
    order = np.argsort(-values.detach().abs().numpy().astype(np.float64), kind="stable")[:k]
    return np.sort(order)
