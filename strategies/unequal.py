"""Clients of unequal rank: what each is sent of the state, and means over whoever holds a matrix.

A client of rank r_k in a matrix has B_k (m, r_k), A_k (r_k, n) and its own scale s_k = α / r_k. Rank 0 means that it
does not hold the matrix: it trains without it, and the mean of that matrix is over the others, their weights
renormalised. A matrix that nobody held this round keeps its value (LEGEND, arXiv 2412.20004).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedlora.lowrank import Sum
from fedlora.updates import Adapter, LowRank, Update
from strategies.base import Combined, RankAllocation, Weighting
from strategies.mean import weight_of


def portion(adapter: Adapter, shares: Mapping[str, RankAllocation] | None) -> Adapter:
    """The leading directions of every matrix, at the client's ranks and scales: s_k B_k A_k = s B[:, :r_k] A[:r_k]."""
    if shares is None:
        return adapter
    layers = {
        name: portion_of(layer, shares[name]) if name in shares else layer for name, layer in adapter.layers.items()
    }
    return replace(adapter, layers=layers)


def portion_of(layer: LowRank, share: RankAllocation) -> LowRank:
    if share.rank > layer.rank:
        raise ValueError(f"a share of rank {share.rank} of a matrix of rank {layer.rank}")
    B_mr = layer.B_mr[:, : share.rank] * (layer.scale / share.scale)
    return LowRank(B_mr.contiguous(), layer.A_rn[: share.rank].contiguous(), share.scale)


def mean_over_holders(updates: Iterable[Update], weighting: Weighting) -> Combined:
    """Σ w_k s_k B_k A_k per matrix, w_k normalised over its holders; `mean` is of dense parameters. One pass, float64.

    A matrix that nobody holds is absent from `ideal`. No update at all is a ValueError.
    """
    products, held = Sum(), dict[str, float]()
    dense: dict[str, Tensor] = {}
    clients, total = 0, 0.0
    for update in updates:
        weight = weight_of(update, weighting)
        if not 0 < weight < float("inf"):
            raise ValueError(f"the weight of {update.client} is {weight}; it must be positive and finite.")
        holding = {name: layer for name, layer in update.adapter.layers.items() if layer.rank > 0}
        products.add(Adapter(holding), weight)
        for name in holding:
            held[name] = held.get(name, 0.0) + weight
        for name, tensor in update.adapter.dense.items():
            dense[name] = dense[name].add_(tensor, alpha=weight) if name in dense else tensor.double() * weight
        clients, total = clients + 1, total + weight
    if clients == 0:
        raise ValueError("there is no update to combine")
    products.divide(held)
    return Combined(Adapter({}, {name: tensor.div_(total) for name, tensor in dense.items()}), products, clients, total)


class PaddedMean:
    """Mean of the factors of one matrix, shorter ones padded with zeros to the longest; scales go into B. float64."""

    def __init__(self) -> None:
        self._left = self._right = torch.zeros(0, 0, dtype=torch.float64)
        self._weight = 0.0

    def add(self, layer: LowRank, weight: float) -> None:
        (m, n), r = layer.shape, layer.rank
        rank = max(r, self._left.shape[1])
        left, right = padded(self._left, m, rank), padded(self._right, rank, n)
        left[:, :r] += weight * layer.left_mr()
        right[:r] += weight * layer.A_rn.double()
        self._left, self._right, self._weight = left, right, self._weight + weight

    def result(self) -> LowRank:
        """(Σ w_k s_k B_k)(Σ w_k A_k) over the holders, of scale 1."""
        return LowRank(self._left / self._weight, self._right / self._weight, 1.0)


def at_rank_of(mean: LowRank, layer: LowRank) -> LowRank:
    """A mean of scale 1 at the state's rank and scale, missing directions zero; the product is the same."""
    m, n = layer.shape
    return replace(layer, B_mr=padded(mean.B_mr / layer.scale, m, layer.rank), A_rn=padded(mean.A_rn, layer.rank, n))


def padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """`matrix` in the upper left corner of zeros; itself when it has that size already."""
    if matrix.shape == (rows, columns):
        return matrix
    larger = matrix.new_zeros(rows, columns)
    larger[: matrix.shape[0], : matrix.shape[1]] = matrix
    return larger
