"""LoRA-FAIR: average A and B, then refine B so that B A comes closer to the mean of the products.

Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", ICCV 2025,
arXiv 2411.14961.

    A' = Σ w_k A_k,   B' = B̄ + argmin_dB D(Σ w_k B_k A_k, (B̄ + dB) A') + λ ‖dB‖²_F

What the paper leaves open is a setting here: the discrepancy D (`cosine`: 1 - cosine of the flattened matrices, as
the paper says, or `frobenius`: ½‖·‖², which has a closed form), the penalty (the paper prints the norm, every published
implementation squares it), λ (the paper's 0.01), and when to stop. The minimiser itself is computed, not a number of
gradient steps towards it: `strategies.refinement`. s cancels in the cosine; both products are taken without it.

Never forms m x n: all that is needed of M = Σ w_k B_k A_k, held as factors, is G = M A'ᵀ (m, r) and N = ‖M‖_F.
Degenerate cases keep dB = 0: M = 0, or B̄ A' = 0 (no cosine). λ = 0, where the scale would be free, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from fedlora.lowrank import Product, Sum
from fedlora.norms import approximate_size
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import in_dtype_of, weighted_mean
from strategies.refinement import Penalty, PenaltyForm, Stopping, most_similar, nearest


class LoRAFAIR(StrategySettings):
    """Average A and B, refine B."""

    metric: Literal["cosine", "frobenius"] = "cosine"
    """What is compared: the cosine of the paper, or the Frobenius distance."""

    penalty: float = Field(0.01, gt=0)
    """λ: how strongly the refined B is held at the mean. Not scale-free: B multiplied by t needs λ / t²."""

    penalty_form: PenaltyForm = "squared"
    """λ ‖dB‖² (`squared`), or λ ‖dB‖ (`norm`), under which small refinements do not happen at all."""

    tolerance: float = Field(1e-9, gt=0)
    """Stopping rule of the cosine's search: when its two scalars change by less than this."""

    iterations: int = Field(400, ge=1)
    """Most steps of that search."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2411.14961",
            exact=False,
            unequal_ranks=False,
            linear_uploads=False,
            moves_base=False,
            example_level_dp=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.A, Factor.B, Factor.DENSE})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return weighted_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        layers = {name: self._refined(name, layer, combined.ideal) for name, layer in combined.mean.layers.items()}
        return replace(state, adapter=in_dtype_of(state.adapter, Adapter(layers, combined.mean.dense)))

    def _refined(self, name: str, layer: LowRank, ideal: Mapping[str, Product]) -> LowRank:
        G_mr = times(ideal, name, layer.A_rn.mT).double().div_(layer.scale)
        penalty = Penalty(self.penalty, self.penalty_form)
        if self.metric == "frobenius":
            return replace(layer, B_mr=nearest(layer.B_mr, layer.A_rn, G_mr, penalty))
        size = approximate_size(ideal[name]) / layer.scale
        if size == 0.0:
            return layer
        stop = Stopping(self.tolerance, self.iterations)
        return replace(layer, B_mr=most_similar(layer.B_mr, layer.A_rn, G_mr, size, penalty, stop))


def times(ideal: Mapping[str, Product], name: str, X_nr: Tensor) -> Tensor:
    """Δ X of one matrix of the mean product."""
    if isinstance(ideal, Sum):
        return ideal.times(name, X_nr)
    product = ideal[name]
    return product.U_mp @ (product.V_pn @ X_nr.to(product.V_pn)).to(product.U_mp)
