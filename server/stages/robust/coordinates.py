"""Coordinate-wise rules: every value by itself, over the clients.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, arXiv 1803.01498.

They stand on what is sent, so they need a strategy whose state depends on weighted sums of it (traits.linear_uploads).
The result is one update that no client has sent: its median of products is not the product of its medians, so no
aggregation error is reported. Where A and B both move (FedIT) each is bounded by itself, and ΔW is not.

Preconditions: n >= 2f + 1 for both. Guarantee: every coordinate lies between values of honest clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlora.updates import Tensors


def median(updates: Sequence[Tensors]) -> dict[str, Tensor]:
    """The median of every coordinate; the mean of the two in the middle where their number is even. float64."""
    middle = slice((len(updates) - 1) // 2, len(updates) // 2 + 1)
    return {name: ordered(updates, name)[middle].mean(0) for name in updates[0]}


def trimmed_mean(updates: Sequence[Tensors], *, trim: int) -> dict[str, Tensor]:
    """The mean of every coordinate without its `trim` smallest and largest values. float64."""
    return {name: ordered(updates, name)[trim : len(updates) - trim].mean(0) for name in updates[0]}


def ordered(updates: Sequence[Tensors], name: str) -> Tensor:
    """One tensor of all clients (K, ...), ascending at every coordinate: independent of the order of arrival."""
    return torch.stack([update[name].double() for update in updates]).sort(dim=0).values
