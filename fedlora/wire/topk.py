"""Exact top-k by magnitude: one histogram over the high bits of the floats, then the boundary bucket alone.

The bits of a non-negative float, read as an integer, are in the order of the floats: no sorting, no heap.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedlora.wire.indices import Indices


def top_k(values: Tensor, k: int) -> Indices:
    """Increasing indices of the k values of largest magnitude in a flat float32 tensor; ties go to the lower index."""
    n = values.numel()
    if k >= n:
        return np.arange(n, dtype=np.int64)
    if k == 0:
        return np.empty(0, dtype=np.int64)
    bits = values.detach().contiguous().view(torch.int32).numpy() & 0x7FFFFFFF
    high = (bits >> 16).astype(np.uint16)
    counts = np.bincount(high, minlength=1 << 15)
    from_top = np.cumsum(counts[::-1])
    bucket = (1 << 15) - 1 - int(np.searchsorted(from_top, k))
    above = int(from_top[(1 << 15) - 1 - bucket] - counts[bucket])
    boundary = np.flatnonzero(high == bucket)
    order = np.argsort(-bits[boundary].astype(np.int64), kind="stable")[: k - above]
    chosen = high > bucket
    chosen[boundary[order]] = True
    return np.flatnonzero(chosen)


def top_k_by_sorting(values: Tensor, k: int) -> Indices:
    """The slow clear twin."""
    order = np.argsort(-values.detach().abs().numpy().astype(np.float64), kind="stable")[:k]
    return np.sort(order)
