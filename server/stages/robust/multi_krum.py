"""Multi-Krum: the updates that have the closest neighbours are kept, always the same number.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
arXiv 1703.02757. Keeping n - f - 2 is what El Mhamdi et al. prove ("The Hidden Vulnerability of Distributed Learning in
Byzantium", arXiv 1802.07927, and Damaskinos et al., "AggregaThor", 2019).

    score(k) = Σ of the n - f - 2 smallest ‖ΔW_k - ΔW_l‖², l ≠ k

Precondition n >= 2f + 3. It takes as many out when nobody attacks, and those are the clients whose data are unlike the
others': with unequal data it costs quality.
"""

from __future__ import annotations

import torch
from torch import Tensor


def left_out(squared_kk: Tensor, *, attackers: int, keep: int | None) -> list[int]:
    """Positions of all but the `keep` (n - f - 2 when not given) best scores; ties go to the earlier position."""
    n = squared_kk.shape[0]
    kept = n - attackers - 2 if keep is None else min(keep, n - attackers)
    order = krum_scores(squared_kk, attackers=attackers).argsort(stable=True)
    return sorted(int(position) for position in order[kept:])


def krum_scores(squared_kk: Tensor, *, attackers: int) -> Tensor:
    """Sum of squared distances to the nearest n - f - 2 others (K,)."""
    n = squared_kk.shape[0]
    others = squared_kk.clone().fill_diagonal_(torch.inf).sort(dim=1).values
    return others[:, : n - attackers - 2].sum(1)
