"""Per-example gradients of a wide matrix, kept as what they are made of: G_n = Σ_t g_nt x_ntᵀ, never formed.

Shapes: n examples, t positions, i in, o out. Ghost norms: Li et al., arXiv 2110.05679; the weighted sum
from the same tensors: Bu et al., arXiv 2210.00038.

    ‖G_n‖² = Σ (g_n g_nᵀ) ∘ (x_n x_nᵀ),     Σ_n f_n G_n = Σ_nt (f_n g_nt) x_ntᵀ

Memory n t (o + i) in the place of n o i. For small matrices, LoRA's own, forming them is the cheaper way.

Guarantee: `squares` is no less than ‖G_n‖², up to the float64 rounding of the factors' own squares: positions that
cancel each other do not make a norm look small. The slow twin is `formed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SIDE = 64
"""Narrower matrices are formed: LoRA's factors, heads."""

ROUNDING = 1e-13
"""Of Σ‖g_t‖² Σ‖x_t‖², which bounds ‖G‖²: more than the float64 sums can have lost to cancellation."""

PIECE = 256
"""On a GPU, where float64 products take up to 64 times as long: so many numbers are added in float32 before float64
takes over."""
ROUNDING_IN_PIECES = 2 * (PIECE + 3) * 2.0**-24
"""The same for sums in such pieces, in any order (Higham, Accuracy and Stability of Numerical Algorithms, 3.5): of
Σ_tu ‖g_t‖‖g_u‖‖x_t‖‖x_u‖, which is at most Σ‖g_t‖² Σ‖x_t‖². Needs products in full float32 (`precision`)."""


@dataclass(frozen=True)
class FactoredGradient:
    """Every example's gradient of one matrix (n, o, i), as its two sides."""

    g_nto: Tensor
    x_nti: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return int(self.g_nto.shape[0]), int(self.g_nto.shape[2]), int(self.x_nti.shape[2])

    def formed(self) -> Tensor:
        """(n, o, i)."""
        return torch.bmm(self.g_nto.mT.to(self.x_nti.dtype), self.x_nti)


TOGETHER, ADDED = 1 << 16, 64
"""How many numbers of a norm, and how many examples of a sum, are added in float32 before float64 takes over."""

Gradients = Tensor | FactoredGradient
"""Per-example gradients of one parameter (n, *shape)."""


def outer_is_smaller(positions: int, o: int, i: int) -> bool:
    """Whether the two sides have at most half the numbers of the matrix, and it is no small one."""
    return min(o, i) >= LEAST_SIDE and 2 * positions * (o + i) <= o * i


def joined(uses: Sequence[FactoredGradient]) -> FactoredGradient:
    """The gradient of a matrix that was used several times: more positions."""
    if len(uses) == 1:
        return uses[0]
    return FactoredGradient(torch.cat([use.g_nto for use in uses], 1), torch.cat([use.x_nti for use in uses], 1))


def squares(gradients: Gradients) -> Tensor:
    """‖G_n‖² of every example (n,), float64."""
    if isinstance(gradients, Tensor):
        flat_nx = gradients.flatten(1)
        found_n: Tensor = sum(
            (torch.linalg.vector_norm(part, dim=1).double().square() for part in torch.split(flat_nx, TOGETHER, 1)),
            start=flat_nx.new_zeros(len(flat_nx), dtype=torch.float64),
        )
        return found_n
    products = in_pieces if gradients.g_nto.is_cuda else in_float64
    return at_least_squares(gradients, products, ROUNDING_OF[products])


def at_least_squares(sides: FactoredGradient, products: Callable[[Tensor], Tensor], rounding: float) -> Tensor:
    """The guarantee: what `products` may have rounded away is added."""
    g_nto, x_nti = sides.g_nto, sides.x_nti
    bound_n = g_nto.double().square().sum((1, 2)) * x_nti.double().square().sum((1, 2))
    squares_n: Tensor = (products(g_nto) * products(x_nti)).sum((1, 2)).clamp_min(0.0) + rounding * bound_n
    return squares_n


def in_float64(side_ntk: Tensor) -> Tensor:
    """Products of every two positions of an example (n, t, t)."""
    return torch.bmm(side_ntk.double(), side_ntk.double().mT)


def in_pieces(side_ntk: Tensor) -> Tensor:
    """The same by products in float32, of numbers up to 1: nothing is lost below float32's smallest numbers."""
    largest_n11 = side_ntk.double().abs().amax((1, 2), keepdim=True)
    largest_n11 = torch.where(largest_n11 == 0, 1.0, largest_n11)
    found_ntt = side_ntk.new_zeros(*side_ntk.shape[:2], side_ntk.shape[1], dtype=torch.float64)
    for part_ntk in torch.split((side_ntk / largest_n11).float(), PIECE, 2):
        found_ntt += torch.bmm(part_ntk, part_ntk.mT)
    return found_ntt * largest_n11.square()


ROUNDING_OF = {in_float64: ROUNDING, in_pieces: ROUNDING_IN_PIECES}


def weighted(gradients: Gradients, factors_n: Tensor) -> Tensor:
    """Σ_n f_n G_n, of the parameter's shape, float64.

    Of a formed gradient products are in its own precision, a few examples at a time; of two sides they are in float64,
    as their norms are, so that a sum over many positions rounds nothing that could be seen.
    """
    if isinstance(gradients, Tensor):
        flat_nx, weights_n = gradients.flatten(1), factors_n.to(gradients.dtype)
        total = flat_nx.new_zeros(flat_nx.shape[1], dtype=torch.float64)
        for rows_nx, some_n in zip(torch.split(flat_nx, ADDED), torch.split(weights_n, ADDED), strict=True):
            total += some_n @ rows_nx
        return total.view(gradients.shape[1:])
    g_No = (gradients.g_nto.double() * factors_n[:, None, None]).flatten(0, 1)
    total_oi: Tensor = g_No.mT @ gradients.x_nti.double().flatten(0, 1)
    return total_oi


def without(gradients: Gradients, bad_n: Tensor) -> Gradients:
    """The gradients with zeros in the place of these examples': 0 · inf is not 0, the rows themselves must go.

    Formed gradients are changed where they are, and take no further memory: they are nobody else's. The inputs of a
    layer are.
    """
    if isinstance(gradients, Tensor):
        return gradients.masked_fill_(bad_n.view(-1, *[1] * (gradients.dim() - 1)), 0.0)
    mask_n11 = bad_n[:, None, None]
    return FactoredGradient(gradients.g_nto.masked_fill(mask_n11, 0.0), gradients.x_nti.masked_fill(mask_n11, 0.0))


def only(gradients: Gradients, example: int) -> Gradients:
    """One example's gradient (1, *shape)."""
    alone = slice(example, example + 1)
    if isinstance(gradients, Tensor):
        return gradients[alone]
    return FactoredGradient(gradients.g_nto[alone], gradients.x_nti[alone])
