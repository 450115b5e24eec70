"""How far an update moves the model, in ΔW: the same however a client has factored it.

With L = s·B·R (LoRA: s·B), a client that received (L, A) and sends (L_k, A_k) changes one matrix by

    ΔW_k - ΔW = (L_k - L) A_k + L (A_k - A)

a product of rank at most 2r: differences of what is sent, never a difference of two large products. What trains whole
belongs to the change. Guarantee: nothing here depends on the gauge, B -> B G, A -> G⁻¹ A, and no m x n matrix
is formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.lowrank import Product
from fedlora.norms import frobenius, gram
from fedlora.updates import Adapter, Factor, LowRank, norm, subtract


@dataclass(frozen=True)
class Change:
    """What one update does to the weights: matrix by matrix, and to what trains whole."""

    matrices: Mapping[str, Product]
    dense: Mapping[str, Tensor]

    @property
    def norm(self) -> float:
        """‖ΔW_k - ΔW‖_F over all of them together."""
        return float(
            (sum(frobenius(product) ** 2 for product in self.matrices.values()) + norm(self.dense) ** 2) ** 0.5
        )


def change(after: Adapter, before: Adapter) -> Change:
    """What `after` serves, less what `before` does."""
    matrices = {name: moved(layer, before.layers[name]) for name, layer in after.layers.items()}
    dense = subtract(after.tensors([Factor.DENSE]), before.tensors([Factor.DENSE]))
    return Change(matrices, dense)


def moved(after: LowRank, before: LowRank) -> Product:
    """The change of one matrix."""
    L_mr, A_rn = before.left_mr(), before.A_rn.double()
    if after.A_rn is before.A_rn:  # A was not trained
        return Product(after.left_mr() - L_mr, A_rn)
    A_k = after.A_rn.double()
    return Product(torch.cat([after.left_mr() - L_mr, L_mr], 1), torch.cat([A_k, A_k - A_rn], 0))


def squared_distances(changes: Sequence[Change]) -> Tensor:
    """‖ΔW_k - ΔW_l‖²_F for every two of the changes (K, K), by inner products of low-rank products."""
    inner = torch.zeros(len(changes), len(changes), dtype=torch.float64)
    for name in changes[0].matrices:
        inner += gram(found.matrices[name] for found in changes)
    for name in changes[0].dense:
        flat = torch.stack([found.dense[name].flatten().double() for found in changes])
        inner += flat @ flat.mT
    return distances_of(inner)


def distances_of(inner: Tensor) -> Tensor:
    """Squared distances from inner products: exactly zero on the diagonal, never below zero."""
    own = inner.diagonal()
    squared = (own[:, None] + own[None, :] - 2 * inner).clamp(min=0.0)
    return squared.fill_diagonal_(0.0)
