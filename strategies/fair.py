"""LoRA-FAIR: average A and B, then refine B so that B A comes closer to the mean of the products.

Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", ICCV 2025,
arXiv 2411.14961.

    A' = Σ w_k A_k,   B' = B̄ + argmin_dB D(Σ w_k B_k A_k, (B̄ + dB) A') + λ ‖dB‖²_F

What the paper leaves open is a setting here: the discrepancy D (`cosine`: 1 - cosine of the flattened matrices, as
the paper says, or `frobenius`: ½‖·‖², which has a closed form), λ, and when to stop. The minimiser itself is computed,
not a number of gradient steps towards it. s cancels in the cosine; both products are taken without it.

Never forms m x n: with M = Σ w_k B_k A_k = U V held as factors, G = M A'ᵀ (m, r), H = A' A'ᵀ (r, r), N = ‖M‖_F,
    frobenius   dB = (G - B̄ H)(H + 2λ I)⁻¹
    cosine      X = B̄ + dB solves  X (2λ I + (c / D²) H) = 2λ B̄ + G / (N D),  D² = tr(X H Xᵀ), c = tr(Gᵀ X) / (N D)
Degenerate cases keep dB = 0: M = 0, or B̄ A' = 0 (no cosine). λ = 0, where the scale would be free, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from scipy.optimize import minimize, root
from torch import Tensor

from fedlora.lowrank import Product
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, Payload, Recipient, State, StrategySettings, Traits
from strategies.mean import in_dtype_of, weighted_mean, zero_product

Numbers = npt.NDArray[np.float64]
MOST = 200.0  # |log g| beyond this is no scale of any matrix


class LoRAFAIR(StrategySettings):
    """Average A and B, refine B."""

    metric: Literal["cosine", "frobenius"] = "cosine"
    """What is compared: the cosine of the paper, or the Frobenius distance."""

    penalty: float = Field(0.01, gt=0)
    """λ: how strongly the refined B is held at the mean. Not scale-free: B multiplied by t needs λ / t²."""

    tolerance: float = Field(1e-9, gt=0)
    """Stopping rule of the cosine's search: when its two scalars change by less than this."""

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
        return frozenset({Factor.A, Factor.B, Factor.HEAD})

    def init(self, adapter: Adapter) -> State:
        return State(adapter)

    def combine(self, updates: Iterable[Update]) -> Combined:
        return weighted_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        layers = {name: self._refined(layer, combined.ideal[name]) for name, layer in combined.mean.layers.items()}
        return replace(state, adapter=in_dtype_of(state.adapter, Adapter(layers, combined.mean.head)))

    def broadcast(self, state: State, recipient: Recipient) -> Payload:
        return Payload(state.adapter)

    def _refined(self, layer: LowRank, ideal: Product) -> LowRank:
        if zero_product(ideal) or not bool(torch.any(layer.B_mr)):
            return layer
        G_mr = ideal.U_mp @ (ideal.V_pn @ layer.A_rn.mT) / layer.scale
        H_rr = layer.A_rn @ layer.A_rn.mT
        if self.metric == "frobenius":
            return replace(layer, B_mr=frobenius_minimiser(layer.B_mr, G_mr, H_rr, self.penalty))
        size = (
            math.sqrt(max(float(((ideal.U_mp.mT @ ideal.U_mp) * (ideal.V_pn @ ideal.V_pn.mT)).sum()), 0.0))
            / layer.scale
        )
        X_mr = cosine_minimiser(layer.B_mr, G_mr, H_rr, size, self.penalty, tolerance=self.tolerance)
        return replace(layer, B_mr=X_mr)


def frobenius_minimiser(B_mr: Tensor, G_mr: Tensor, H_rr: Tensor, penalty: float) -> Tensor:
    """argmin_X ½‖M - X A‖² + λ‖X - B‖², given G = M Aᵀ and H = A Aᵀ."""
    eye = torch.eye(H_rr.shape[0], dtype=H_rr.dtype)
    step_mr: Tensor = torch.linalg.solve(H_rr + 2 * penalty * eye, G_mr - B_mr @ H_rr, left=False)
    return B_mr + step_mr


def cosine_minimiser(
    B_mr: Tensor, G_mr: Tensor, H_rr: Tensor, size: float, penalty: float, *, tolerance: float
) -> Tensor:
    """argmin_X 1 - cos(M, X A) + λ‖X - B‖², given G = M Aᵀ, H = A Aᵀ and `size` = ‖M‖_F; never worse than X = B.

    In the eigenbasis of H = P diag(h) Pᵀ, stationarity says that column j of X P is (2λ b_j + g g_j) / (2λ + κ h_j) for
    two scalars κ = c / D² and g = 1 / (N D). So the search is over two numbers, and all that it needs of the factors
    are the 3 r inner products of the columns b_j and g_j: nothing in it depends on m or n.
    """
    h_r, P_rr = torch.linalg.eigh(H_rr)
    B_p, G_p = B_mr @ P_rr, G_mr @ P_rr
    columns = Columns(h_r.numpy(), inner(B_p, B_p), inner(B_p, G_p), inner(G_p, G_p), size, penalty)
    best: tuple[float, float, float] | None = None
    for start in columns.starts():
        found = minimize(columns.objective, start, method="Nelder-Mead", options={"xatol": tolerance, "fatol": 1e-15})
        polished = root(columns.stationarity, found.x, tol=tolerance)
        for kappa, log_g in (found.x, polished.x):
            value = columns.objective((kappa, log_g))
            if best is None or value < best[0]:
                best = (value, float(kappa), float(log_g))
    at_mean = columns.at_mean()
    if best is None or not best[0] < at_mean:
        return B_mr
    kappa, g = best[1], math.exp(best[2])
    X_mr: Tensor = ((2 * penalty * B_p + g * G_p) / (2 * penalty + kappa * h_r)) @ P_rr.mT
    return X_mr


def inner(x_mr: Tensor, y_mr: Tensor) -> Numbers:
    """The inner product of each column of x with the same column of y."""
    numbers: Numbers = (x_mr * y_mr).sum(0).numpy()
    return numbers


@dataclass(frozen=True)
class Columns:
    """The cosine problem reduced to two scalars (κ, log g); see `cosine_minimiser`."""

    h: Numbers
    bb: Numbers
    bg: Numbers
    gg: Numbers
    size: float
    penalty: float

    def moments(self, kappa: float, g: float) -> tuple[float, float, float]:
        """⟨G, X⟩, D = ‖X A‖ and ‖X - B‖² at X(κ, g)."""
        weight = 1.0 / (2 * self.penalty + kappa * self.h)
        gx = float(np.sum(weight * (2 * self.penalty * self.bg + g * self.gg)))
        xx = weight**2 * (4 * self.penalty**2 * self.bb + 4 * self.penalty * g * self.bg + g**2 * self.gg)
        bx = weight * (2 * self.penalty * self.bb + g * self.bg)
        D = math.sqrt(max(float(np.sum(self.h * xx)), 0.0))
        return gx, D, max(float(np.sum(xx - 2 * bx + self.bb)), 0.0)

    def objective(self, point: Sequence[float]) -> float:
        """1 - cosine + λ‖X - B‖²; infinite where X(κ, g) is not defined."""
        kappa, log_g = point
        if abs(log_g) > MOST or float(np.min(2 * self.penalty + kappa * self.h)) <= 0:
            return math.inf
        gx, D, moved = self.moments(kappa, math.exp(log_g))
        return 1.0 - gx / (self.size * D) + self.penalty * moved if D > 0 else math.inf

    def stationarity(self, point: Sequence[float]) -> list[float]:
        """Zero where κ = c / D² and g = 1 / (N D) at X(κ, g), relatively."""
        kappa, log_g = point
        gx, D, _ = self.moments(kappa, math.exp(min(max(log_g, -MOST), MOST)))
        D = min(max(D, 1e-80), 1e80)
        return [
            kappa * D**3 * self.size / max(abs(gx), 1e-300) - math.copysign(1.0, gx),
            log_g + math.log(self.size * D),
        ]

    def at_mean(self) -> float:
        """The objective at X = B."""
        return 1.0 - float(np.sum(self.bg)) / (self.size * math.sqrt(float(np.sum(self.h * self.bb))))

    def starts(self) -> list[tuple[float, float]]:
        """(κ, log g) of X = B, and of X along G: one of them is in the valley of the minimum."""
        D_b = math.sqrt(float(np.sum(self.h * self.bb)))
        D_g = math.sqrt(float(np.sum(self.h * self.gg)))
        c_b = abs(float(np.sum(self.bg))) / (self.size * D_b)
        c_g = float(np.sum(self.gg)) / (self.size * D_g) if D_g > 0 else 0.0
        starts = [(c_b / D_b**2, -math.log(self.size * D_b))]
        return [*starts, (c_g / D_b**2, -math.log(self.size * D_b))] if c_g > 0 else starts
