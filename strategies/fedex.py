"""FedEx-LoRA: average A and B, and move the base by what the average leaves out.

Singhal, Ponkshe, Vepakomma, "FedEx-LoRA: Exact Aggregation for Federated and Efficient Fine-Tuning of Foundation
Models", ACL 2025, arXiv 2410.09432.

    A' = Σ w_k A_k,   B' = Σ w_k B_k,   W0' = W0 + s ( Σ w_k B_k A_k - B' A' )

Guarantee: W0' + s B' A' = W0 + s Σ w_k B_k A_k, every round (up to float64), unless `rank` truncates the residual; then
the aggregation error is that of the best approximation of that rank (Eckart-Young).

The residual is never a difference of large products. With any reference (B_1, A_1), here the first update's,

    Σ w_k B_k A_k - B' A' = Σ_{k>1} w_k (B_k - B')(A_k - A_1)

so it is built from what clients differ in, in one pass, with (K - 1) r columns: no SVD is needed, and no m x n matrix
until that is the smaller form. (The paper's released code adds the transpose of the residual, which is wrong for
nn.Linear; here only `fedlora.adapters.merge` transposes, for the one layer type that stores W0 so.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from torch import Tensor

from fedlora.lowrank import Product, as_product, stack, truncate, zero
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, Payload, Recipient, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of, weight_of
from strategies.versions import missing, moved


class FedExLoRA(StrategySettings):
    """Average A and B; fold the residual into the base."""

    rank: int | None = Field(None, ge=1)
    """Keep only the best approximation of this rank of each residual: smaller downloads, no longer exact."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2410.09432",
            exact=self.rank is None,
            unequal_ranks=False,
            linear_uploads=False,
            moves_base=True,
            example_level_dp=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        spread = ResidualAccumulator()
        combined = factor_mean(self._observed(updates, spread), self.weighting)
        residual = spread.residual(combined.mean, combined.weight)
        return replace(combined, ideal=MeanPlusResidual(combined.ideal, residual), residual=residual)

    def _observed(self, updates: Iterable[Update], spread: ResidualAccumulator) -> Iterator[Update]:
        for update in updates:
            spread.add(update, weight_of(update, self.weighting))
            yield update

    def step(self, state: State, combined: Combined) -> State:
        adapter = in_dtype_of(state.adapter, combined.mean)
        residual = combined.residual
        if self.rank is not None:
            residual = {name: truncate(product, self.rank)[0] for name, product in residual.items()}
        return moved(replace(state, adapter=adapter), residual)

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        since, residual = missing(state, recipient.held_version)
        return Payload(state.adapter, state.base_version, residual, since)

    def residual_rank(self, *, clients: int, r: int) -> int:
        """What all but the first differ in from it."""
        return min((clients - 1) * r, self.rank or clients * r)


@dataclass(frozen=True)
class MeanPlusResidual(Mapping[str, Product]):
    """s B' A' plus the residual, matrix by matrix, put together when it is looked at."""

    means: Mapping[str, Product]
    residual: Mapping[str, Product]

    def __getitem__(self, name: str) -> Product:
        return stack([self.means[name], self.residual[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.means)

    def __len__(self) -> int:
        return len(self.means)


class ResidualAccumulator:
    """What clients differ in, as updates arrive: Σ w_k (B_k - B_1)(A_k - A_1), with memory bounded by m n per matrix.

    Differences keep the updates' precision: their relative error is that of one subtraction. They are formed at the
    end, each number written once, unless dense is smaller before it.
    """

    def __init__(self) -> None:
        self._first: Adapter | None = None
        self._terms: dict[str, list[tuple[float, LowRank]]] = {}
        self._dense: dict[str, Tensor] = {}

    def add(self, update: Update, weight: float) -> None:
        if self._first is None:
            self._first = update.adapter
            return
        for name, layer in update.adapter.layers.items():
            if name in self._dense:
                self._add_dense(name, layer, weight)
                continue
            terms = self._terms.setdefault(name, [])
            terms.append((weight, layer))
            if sum(term.rank for _, term in terms) > min(layer.shape):
                self._dense[name] = torch.zeros(layer.shape, dtype=torch.float64)
                for held_weight, held in self._terms.pop(name):
                    self._add_dense(name, held, held_weight)

    def residual(self, mean: Adapter, total: float) -> dict[str, Product]:
        """s Σ w_k B_k A_k - s B' A', w_k normalised by their total; at most (K - 1) r columns."""
        return {name: self._centred(name, layer, total) for name, layer in mean.layers.items()}

    def _centred(self, name: str, mean: LowRank, total: float) -> Product:
        if name in self._dense:
            self._add_dense(name, mean, -total)
            return as_product(self._dense[name] / total)
        terms = self._terms.get(name)
        if not terms:
            return zero(mean.shape)  # one client: nothing differs
        assert self._first is not None  # `add` came first
        first, (m, n), r = self._first.layers[name], mean.shape, mean.rank
        off_B = (mean.B_mr - first.B_mr).to(first.B_mr.dtype)
        U_mp, V_pn = first.B_mr.new_empty(m, len(terms) * r), first.A_rn.new_empty(len(terms) * r, n)
        for index, (weight, layer) in enumerate(terms):
            here = slice(index * r, (index + 1) * r)
            torch.sub(layer.B_mr, first.B_mr, out=U_mp[:, here]).sub_(off_B).mul_(weight * layer.scale / total)
            torch.sub(layer.A_rn, first.A_rn, out=V_pn[here])
        return Product(U_mp, V_pn)

    def _add_dense(self, name: str, layer: LowRank, weight: float) -> None:
        assert self._first is not None  # `add` came first
        first = self._first.layers[name]
        dB_mr, dA_rn = (layer.B_mr - first.B_mr).double(), (layer.A_rn - first.A_rn).double()
        self._dense[name].addmm_(dB_mr, dA_rn, alpha=weight * layer.scale)
