"""Norms of low-rank products and distances between them: no m x n while factors are smaller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fedlora.lowrank import Product, Reflectors, scaled, stack, zero


def frobenius(product: Product) -> float:
    """‖U V‖_F by QR of the smaller sides: exact to float64, also when terms inside the product cancel."""
    if product.rank == 0:
        return 0.0
    if product.rank >= min(product.shape):
        return float(torch.linalg.matrix_norm(product.dense()))
    left, right = Reflectors(product.U_mp.double()), Reflectors(product.V_pn.double().mT)
    return float(torch.linalg.matrix_norm(left.R @ right.R.mT))


def approximate_size(product: Product, *, block: int = 96) -> float:
    """‖U V‖_F by traces of Gram matrices, Σ (UᵀU) ∘ (VVᵀ), each pair of blocks of columns once; never negative.

    Half of the digits where terms cancel, which is plenty for a scale; `frobenius` has all of them, at ten times the
    price.
    """
    if product.rank >= min(product.shape):
        return float(torch.linalg.matrix_norm(product.dense()))
    U_parts, V_parts = torch.split(product.U_mp, block, 1), torch.split(product.V_pn, block, 0)
    square = 0.0
    for index, (U_mp, V_pn) in enumerate(zip(U_parts, V_parts, strict=True)):
        for other in range(index, len(U_parts)):
            inner = float(((U_mp.mT @ U_parts[other]).double() * (V_pn @ V_parts[other].mT)).sum())
            square += inner if other == index else 2 * inner
    return math.sqrt(max(square, 0.0))


def gram(products: Iterable[Product]) -> Tensor:
    """Inner products <Δ_k, Δ_l>_F of K products of one shape (K, K), without any Δ.

        <U_k V_k, U_l V_l> = tr(V_kᵀ U_kᵀ U_l V_l) = Σ (U_kᵀ U_l) ∘ (V_k V_lᵀ)

    They depend on the products alone, not on how each is factored (U -> U G, V -> G⁻¹ V). Costs O((m + n) (K p)²).
    """
    listed = list(products)
    U_mP, V_Pn = stack(listed).U_mp.double(), stack(listed).V_pn.double()
    sizes = [product.rank for product in listed]
    rows = []
    for U_mp, V_pn in zip(torch.split(U_mP, sizes, 1), torch.split(V_Pn, sizes, 0), strict=True):
        columns = ((U_mp.mT @ U_mP) * (V_pn @ V_Pn.mT)).sum(0)
        rows.append(torch.stack([part.sum() for part in torch.split(columns, sizes)]))
    gram_kk = torch.stack(rows)
    return (gram_kk + gram_kk.mT) / 2


def dense_gram(products: Iterable[Product]) -> Tensor:
    """The slow clear twin of `gram`."""
    flat = torch.stack([product.dense().flatten() for product in products])
    return flat @ flat.mT


def relative_distance(ideal: Mapping[str, Product], served: Mapping[str, Product]) -> float:
    """‖Δ_ideal - Δ_served‖_F / ‖Δ_ideal‖_F over all matrices together; 0 where both are zero."""
    gap = size = 0.0
    for name, wanted in ideal.items():
        gap_here, size_here = distance_and_size(wanted, served.get(name, zero(wanted.shape)))
        gap, size = gap + gap_here**2, size + size_here**2
    if size == 0.0:
        return 0.0 if gap == 0.0 else float("inf")
    return float((gap / size) ** 0.5)


def distance_and_size(wanted: Product, given: Product) -> tuple[float, float]:
    """‖wanted - given‖_F and ‖wanted‖_F, from one QR of each side: the leading columns of R are those of `wanted`."""
    both = stack([wanted, scaled(given, -1.0)])
    if both.rank >= min(both.shape):
        return frobenius(both), frobenius(wanted)
    left, right = Reflectors(both.U_mp.double()).R, Reflectors(both.V_pn.double().mT).R
    p = wanted.rank
    return float(torch.linalg.matrix_norm(left @ right.mT)), float(
        torch.linalg.matrix_norm(left[:, :p] @ right[:, :p].mT)
    )
