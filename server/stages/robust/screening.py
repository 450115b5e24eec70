"""Screening: who is far from most of the others is left out, at most f of them, and nobody where nobody is.

A client's score is the median of its distances to the others in ΔW; it is left out when that is `threshold` times the
median score. Precondition n >= 2f + 2: of the n - 1 others of an honest client more than half are honest, so both
medians lie between distances to honest clients, whatever f liars send, near or far, together or apart.

It does not see an attacker as close to the honest ones as they are to each other: in high dimension honest updates are
nearly orthogonal, and even the negative of one is only √2 times as far as they are.
"""

from __future__ import annotations

from torch import Tensor


def outliers(squared_kk: Tensor, *, attackers: int, threshold: float) -> list[int]:
    """Positions that are left out, the farthest first."""
    scores = median_distances(squared_kk)
    limit = threshold * float(scores.median())
    far = [int(position) for position in scores.argsort(descending=True, stable=True) if scores[position] > limit]
    return far[:attackers]


def median_distances(squared_kk: Tensor) -> Tensor:
    """Every client's (lower) median distance to the others (K,)."""
    ascending = squared_kk.sqrt().sort(dim=1).values[:, 1:]  # the first is the client itself
    return ascending.median(dim=1).values
