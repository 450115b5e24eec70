"""Sums of low-rank products without ever forming m x n when the factors are smaller.

A `Product` is Δ = U V, with U (m, p) and V (p, n). Costs: O((m + n) p²) time, O((m + n) p) memory.
Sums, factorisations and norms are float64: it costs little at these sizes, and differences of products in bf16 are
noise. Stacked factors keep the precision that they came in: nothing is added up in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fedlora.updates import Adapter, LowRank


@dataclass(frozen=True)
class Product:
    """Δ (m, n) = U (m, p) · V (p, n). When p would pass min(m, n), U is Δ itself and V the identity, or the reverse."""

    U_mp: Tensor
    V_pn: Tensor

    @property
    def rank(self) -> int:
        """The number p of stored columns: an upper bound of the true rank."""
        return int(self.U_mp.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.U_mp.shape[0]), int(self.V_pn.shape[1])

    @property
    def numbers(self) -> int:
        """How many numbers it takes to send or keep: those of the factors, or of the matrix where that is no more."""
        m, n = self.shape
        return min(self.rank * (m + n), m * n)

    def dense(self) -> Tensor:
        """Δ itself, float64, shared with nothing; a matrix that stands beside an identity is not multiplied by it."""
        if is_identity(self.V_pn):
            return self.U_mp.to(torch.float64, copy=True)
        if is_identity(self.U_mp):
            return self.V_pn.to(torch.float64, copy=True)
        return self.times()

    def times(self) -> Tensor:
        """The product, whatever the factors are, float64."""
        return self.U_mp.double() @ self.V_pn.double()


def product_of(layer: LowRank) -> Product:
    """ΔW of one adapted matrix, the scale inside."""
    return Product(layer.left_mr(), layer.A_rn.double())


def stack(products: Iterable[Product]) -> Product:
    """The sum of the products as one, its rank the sum of theirs."""
    listed = list(products)
    return Product(torch.cat([p.U_mp for p in listed], 1), torch.cat([p.V_pn for p in listed], 0))


def scaled(product: Product, factor: float) -> Product:
    return Product(product.U_mp * factor, product.V_pn)


def zero(shape: tuple[int, int]) -> Product:
    m, n = shape
    return Product(torch.zeros(m, 0, dtype=torch.float64), torch.zeros(0, n, dtype=torch.float64))


def svd(product: Product, *, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD U (m, k), S (k), Vᵀ (k, n) of U V by two QR and a small SVD; k = min(p, m, n), or the leading `rank`.

    Vᵀ's rows lie in the row space of V whenever p <= n, also for singular values that are zero: unlike a dense SVD of
    the product, which fills a rank-deficient result with arbitrary directions.
    """
    left, right = Reflectors(product.U_mp.double()), Reflectors(product.V_pn.double().mT)
    U, S, Vh = torch.linalg.svd(left.R @ right.R.mT, full_matrices=False)
    U, S, Vh = U[:, :rank], S[:rank], Vh[:rank]
    return left.times(U), S, right.times(Vh.mT).mT


class Reflectors:
    """A QR decomposition whose Q is only ever applied, never formed: half the work when few columns are wanted."""

    def __init__(self, matrix: Tensor) -> None:
        self._reflectors, self._tau = torch.geqrf(matrix)
        self.R = self._reflectors[: min(matrix.shape)].triu()

    def times(self, C_kj: Tensor) -> Tensor:
        """Q C, for C with as many rows as Q has columns."""
        m = self._reflectors.shape[0]
        padded = torch.cat([C_kj, C_kj.new_zeros(m - C_kj.shape[0], C_kj.shape[1])])
        width = self._tau.shape[0]
        return torch.ormqr(self._reflectors[:, :width], self._tau, padded)


def compact(product: Product, *, tolerance: float = 1e-12) -> Product:
    """The same matrix at its numerical rank: singular values below `tolerance` times the largest are dropped."""
    if product.rank == 0:
        return product
    U, S, Vh = svd(product)
    keep = int((S > tolerance * S[0]).sum()) if S[0] > 0 else 0
    return Product(U[:, :keep] * S[:keep], Vh[:keep])


def truncate(product: Product, rank: int) -> tuple[Product, float]:
    """The best approximation of at most `rank`, and the Frobenius norm of what it leaves out (Eckart-Young)."""
    if product.rank == 0:
        return product, 0.0
    U, S, Vh = svd(product)
    return Product(U[:, :rank] * S[:rank], Vh[:rank]), float(torch.linalg.vector_norm(S[rank:]))


def dense_is_smaller(rank: int, shape: tuple[int, int]) -> bool:
    """Whether m n numbers are no more than the rank · (m + n) of two factors: what is cheaper to send and to keep."""
    m, n = shape
    return rank * (m + n) >= m * n


def total_of(residuals: Iterable[Mapping[str, Product]]) -> dict[str, Product]:
    """The sum of several residuals, matrix by matrix: at its rank, or dense where factors are no smaller.

    One alone is at its rank already.
    """
    parts: dict[str, list[Product]] = {}
    for residual in residuals:
        for name, product in residual.items():
            parts.setdefault(name, []).append(product)
    return {name: found[0] if len(found) == 1 else compact_sum(found) for name, found in parts.items()}


def compact_sum(products: Sequence[Product]) -> Product:
    """Their sum, by QR and a small SVD at its numerical rank; added up outright where the stack is no smaller."""
    together = added(products)
    return together if dense_is_smaller(together.rank, together.shape) else compact(together)


def added(products: Sequence[Product]) -> Product:
    """Their sum as one: stacked, or in float64 as the matrix itself where the stack is no smaller."""
    shape = products[0].shape
    if not dense_is_smaller(sum(product.rank for product in products), shape):
        return stack(products)
    total = products[0].dense()
    for product in products[1:]:
        if is_identity(product.U_mp) or is_identity(product.V_pn):
            total.add_(product.dense())
        else:
            total.addmm_(product.U_mp.double(), product.V_pn.double())
    return beside_identity(total)


@dataclass(frozen=True)
class Term:
    """weight · U V. The tensors are the update's own, as it sent them: nothing is copied before the sum is wanted."""

    weight: float
    product: Product


class Sum(Mapping[str, Product]):
    """Adds weighted products as they arrive; read as a mapping, it makes the sum of one matrix when it is asked for.

    Terms are kept until their rank passes min(m, n), then held as one dense matrix (which is smaller by then): memory
    is bounded by m n per matrix, whatever the number of terms.
    """

    def __init__(self) -> None:
        self._terms: dict[str, list[Term]] = {}
        self._dense: dict[str, Tensor] = {}
        self._divisor: dict[str, float] = {}

    def add(self, adapter: Adapter, weight: float) -> None:
        """Add weight · ΔW of every layer."""
        for name, layer in adapter.layers.items():
            if layer.R_rr is None:
                self.add_product(name, Product(layer.B_mr, layer.A_rn), weight=weight * layer.scale)
            else:
                self.add_product(name, product_of(layer), weight=weight)

    def add_product(self, name: str, product: Product, *, weight: float = 1.0) -> None:
        if name in self._dense:
            self._dense[name].addmm_(product.U_mp.double(), product.V_pn.double(), alpha=weight)
            return
        terms = self._terms.setdefault(name, [])
        terms.append(Term(weight, product))
        if sum(term.product.rank for term in terms) > min(product.shape):
            self._dense[name] = stacked(self._terms.pop(name), 1.0).dense()  # float64 from here on

    def divide(self, divisors: Mapping[str, float]) -> None:
        """Divide by these from now on: the weights' totals, once they are known."""
        self._divisor = dict(divisors)

    def __getitem__(self, name: str) -> Product:
        factor = 1.0 / self._divisor.get(name, 1.0)
        if name in self._dense:
            return as_product(self._dense[name] * factor)
        return stacked(self._terms[name], factor)

    def times(self, name: str, X_nj: Tensor) -> Tensor:
        """Δ X of one matrix, term by term: nothing is stacked. In the terms' own precision, float32 at least."""
        factor = 1.0 / self._divisor.get(name, 1.0)
        if name in self._dense:
            return (self._dense[name] @ X_nj.double()).mul_(factor)
        total: Tensor | None = None
        for term in self._terms[name]:
            U_mp, V_pn = term.product.U_mp, term.product.V_pn
            dtype = torch.promote_types(U_mp.dtype, torch.float32)
            X_nj = X_nj.to(dtype)
            core_pj = (V_pn.to(dtype) @ X_nj).mul_(factor * term.weight)
            total = U_mp.to(dtype) @ core_pj if total is None else total.addmm_(U_mp.to(dtype), core_pj)
        assert total is not None  # a name without a term is a KeyError above
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._terms.keys() | self._dense.keys()))

    def __len__(self) -> int:
        return len(self._terms) + len(self._dense)


def stacked(terms: Sequence[Term], factor: float) -> Product:
    """factor · Σ weight U V as one product, in the terms' own precision (float32 at least): nothing is added up."""
    U_mp = torch.cat([term.product.U_mp for term in terms], 1)
    U_mp = U_mp.to(torch.promote_types(U_mp.dtype, torch.float32))
    weights_p = torch.cat([U_mp.new_full((term.product.rank,), factor * term.weight) for term in terms])
    return Product(U_mp.mul_(weights_p), torch.cat([term.product.V_pn for term in terms], 0))


def as_product(matrix: Tensor) -> Product:
    """A matrix as a product with the identity on its shorter side; `matrix` itself is not shared, the identity is."""
    return beside_identity(matrix.clone())


def beside_identity(matrix: Tensor) -> Product:
    """`as_product` of a matrix that is nobody else's."""
    m, n = matrix.shape
    eye = identity(min(m, n), matrix.dtype)
    return Product(matrix, eye) if n <= m else Product(eye, matrix)


@lru_cache(maxsize=8)
def identity(size: int, dtype: torch.dtype) -> Tensor:
    """One for all matrices of a size: as large as one of them. Never to be written into."""
    return torch.eye(size, dtype=dtype)


def is_identity(matrix: Tensor) -> bool:
    """Whether it is the identity, at the price of reading it once, and of one number where it is not square."""
    n = matrix.shape[0]
    if n == 0 or n != matrix.shape[1] or matrix[0, 0] != 1:
        return False
    return matrix is identity(n, matrix.dtype) or torch.equal(matrix, torch.eye(n, dtype=matrix.dtype))


def tensors_of(residual: Mapping[str, Product]) -> dict[str, Tensor]:
    """What a file needs of products, by `name/U` and `name/V`, or `name/D`, the matrix beside an identity."""
    tensors: dict[str, Tensor] = {}
    for name, product in residual.items():
        if is_identity(product.V_pn):
            tensors[f"{name}/D"] = product.U_mp
        elif is_identity(product.U_mp):
            tensors[f"{name}/D"] = product.V_pn
        else:
            tensors |= {f"{name}/U": product.U_mp, f"{name}/V": product.V_pn}
    return tensors


def products_of(tensors: Mapping[str, Tensor]) -> dict[str, Product]:
    """What `tensors_of` was given."""
    found = {}
    for name in sorted({key.rpartition("/")[0] for key in tensors}):
        matrix = tensors.get(f"{name}/D")
        found[name] = Product(tensors[f"{name}/U"], tensors[f"{name}/V"]) if matrix is None else as_product(matrix)
    return found
