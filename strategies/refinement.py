"""The minimisers behind LoRA-FAIR: the X nearest to B whose X A is closest to M, by Frobenius distance or by cosine.

M (m, n) is never formed: with G = M Aᵀ (m, r), H = A Aᵀ = P diag(h) Pᵀ (r, r), N = ‖M‖_F, D = ‖X A‖_F and
c = tr(Gᵀ X) / (N D), stationarity reads, for a multiplier μ that is 2λ (λ‖dB‖²) or λ / ‖dB‖ (λ‖dB‖),

    frobenius   dB (H + μ I) = G - B H
    cosine      X (μ I + (c / D²) H) = μ B + G / (N D)

so in the eigenbasis of H column j of X P is (b_j + γ g_j) / (1 + κ h_j), for two scalars κ and γ (γ = κ for the
distance, one scalar then). What is searched for are these scalars, and all that the search needs of the factors are the
3 r inner products of the columns b_j and g_j: nothing in it depends on m or n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import brentq, minimize, root
from torch import Tensor

Numbers = npt.NDArray[np.float64]
PenaltyForm = Literal["squared", "norm"]
MOST = 200.0  # |log γ| beyond this is no scale of any matrix


@dataclass(frozen=True)
class Penalty:
    """λ ‖dB‖² or λ ‖dB‖."""

    weight: float
    form: PenaltyForm = "squared"

    def at(self, square: float) -> float:
        """The penalty of a dB of this squared norm."""
        return self.weight * (square if self.form == "squared" else math.sqrt(square))

    def multiplier(self, square: float) -> float:
        """μ, so that the penalty's gradient is μ dB; infinite for the norm at zero."""
        if self.form == "squared":
            return 2 * self.weight
        return self.weight / math.sqrt(square) if square > 0 else math.inf


@dataclass(frozen=True)
class Stopping:
    """When the search for the cosine's two scalars ends."""

    tolerance: float = 1e-9
    iterations: int = 400


def nearest(B_mr: Tensor, A_rn: Tensor, G_mr: Tensor, penalty: Penalty) -> Tensor:
    """argmin_X ½‖M - X A‖² + penalty(X - B), given G = M Aᵀ; B itself where A is zero."""
    H_rr = A_rn @ A_rn.mT
    h_r, P_rr = torch.linalg.eigh(H_rr)
    h_r = h_r.clamp_min(0)
    if penalty.form == "squared":
        mu = penalty.multiplier(0.0)
        if not bool(torch.any(h_r)):
            return B_mr
        inverse_rr = (P_rr / (h_r + mu)) @ P_rr.mT
        X_mr: Tensor = torch.add(G_mr, B_mr, alpha=mu) @ inverse_rr  # X (H + μ I) = G + μ B
        return X_mr
    gap_p = (G_mr - B_mr @ H_rr) @ P_rr
    if float(torch.linalg.matrix_norm(gap_p)) <= penalty.weight:
        return B_mr
    step_mr: Tensor = (gap_p / (h_r + secular(h_r, gap_p, penalty.weight))) @ P_rr.mT
    return B_mr + step_mr


def secular(h_r: Tensor, gap_p: Tensor, weight: float) -> float:
    """The μ at which μ ‖gap (H + μ I)⁻¹‖ = λ. The left side grows from 0 to ‖gap‖ > λ, so that there is exactly one."""
    h, c = h_r.clamp_min(0).numpy(), inner(gap_p, gap_p)

    def excess(log_mu: float) -> float:
        mu = math.exp(log_mu)
        return mu * math.sqrt(float(np.sum(c / (h + mu) ** 2))) - weight

    low = high = math.log(weight / math.sqrt(float(np.sum(c))) + float(np.max(h)) + 1e-300)
    while excess(high) <= 0 and high < MOST:
        high += 2
    while excess(low) >= 0 and low > -MOST:
        low -= 2
    return math.exp(float(brentq(excess, low, high, xtol=1e-14)))


def most_similar(
    B_mr: Tensor, A_rn: Tensor, G_mr: Tensor, size: float, penalty: Penalty, stop: Stopping = Stopping()
) -> Tensor:
    """argmin_X 1 - cos(M, X A) + penalty(X - B), given G = M Aᵀ and `size` = ‖M‖_F; never worse than X = B.

    B itself where there is no cosine (B A = 0), and under the norm penalty where its gradient at B is at most λ.
    """
    H_rr = A_rn @ A_rn.mT
    h_r, P_rr = torch.linalg.eigh(H_rr)
    B_p, G_p = B_mr @ P_rr, G_mr @ P_rr
    columns = Columns(h_r.clamp_min(0).numpy(), inner(B_p, B_p), inner(B_p, G_p), inner(G_p, G_p), size, penalty)
    if not columns.start_size > 1e-12 * math.sqrt(float(np.sum(columns.bb)) * float(np.max(columns.h))):
        return B_mr
    if penalty.form == "norm" and columns.gradient_at_start() <= penalty.weight:
        return B_mr
    value, kappa, log_gamma = columns.search(stop)
    if not value < columns.at_start():
        return B_mr
    X_mr: Tensor = ((B_p + math.exp(log_gamma) * G_p) / (1 + kappa * h_r.clamp_min(0))) @ P_rr.mT
    return X_mr


def inner(x_mr: Tensor, y_mr: Tensor) -> Numbers:
    """The inner product of each column of x with the same column of y."""
    numbers: Numbers = (x_mr * y_mr).sum(0).numpy()
    return numbers


@dataclass(frozen=True)
class Columns:
    """The cosine problem in the eigenbasis of H, reduced to two scalars (κ, log γ)."""

    h: Numbers
    bb: Numbers
    bg: Numbers
    gg: Numbers
    size: float
    penalty: Penalty

    @property
    def start_size(self) -> float:
        """‖B A‖_F."""
        return math.sqrt(float(np.sum(self.h * self.bb)))

    def moments(self, kappa: float, gamma: float) -> tuple[float, float, float]:
        """⟨G, X⟩, D = ‖X A‖ and ‖X - B‖² at X(κ, γ)."""
        weight = 1.0 / (1.0 + kappa * self.h)
        gx = float(np.sum(weight * (self.bg + gamma * self.gg)))
        xx = weight**2 * (self.bb + 2 * gamma * self.bg + gamma**2 * self.gg)
        shrink = weight - 1.0  # X - B = shrink B + γ weight G: no difference of large numbers near X = B
        moved = shrink**2 * self.bb + 2 * gamma * shrink * weight * self.bg + (gamma * weight) ** 2 * self.gg
        return gx, math.sqrt(max(float(np.sum(self.h * xx)), 0.0)), max(float(np.sum(moved)), 0.0)

    def objective(self, point: Sequence[float]) -> float:
        """1 - cosine + penalty; infinite where X(κ, γ) is not defined."""
        kappa, log_gamma = point
        if abs(log_gamma) > MOST or float(np.min(1.0 + kappa * self.h)) <= 0:
            return math.inf
        gx, D, moved = self.moments(kappa, math.exp(log_gamma))
        return 1.0 - gx / (self.size * D) + self.penalty.at(moved) if D > 0 else math.inf

    def stationarity(self, point: Sequence[float]) -> list[float]:
        """Zero where μ κ = c / D² and μ γ = 1 / (N D) at X(κ, γ), relatively."""
        kappa, log_gamma = point
        gx, D, moved = self.moments(kappa, math.exp(min(max(log_gamma, -MOST), MOST)))
        D = min(max(D, 1e-80), 1e80)
        mu = min(self.penalty.multiplier(moved), 1e80)
        return [
            mu * kappa * D**3 * self.size / max(abs(gx), 1e-300) - math.copysign(1.0, gx),
            log_gamma + math.log(mu * self.size * D),
        ]

    def at_start(self) -> float:
        """The objective at X = B."""
        return 1.0 - float(np.sum(self.bg)) / (self.size * self.start_size)

    def gradient_at_start(self) -> float:
        """‖∇(1 - cosine)‖_F at X = B."""
        D, c = self.start_size, 1.0 - self.at_start()
        square = self.gg - 2 * (c * self.size / D) * self.h * self.bg + (c * self.size / D) ** 2 * self.h**2 * self.bb
        return math.sqrt(max(float(np.sum(square)), 0.0)) / (self.size * D)

    def search(self, stop: Stopping) -> tuple[float, float, float]:
        """The least objective found, and its κ and log γ.

        A root of the stationarity conditions from every start, which takes microseconds near a minimum; where none is
        found that improves on the start, a simplex from every start, and a root from where it ends.
        """
        best = self.least([self.polished(start, stop) for start in self.starts()])
        if best[0] < self.at_start() and max(map(abs, self.stationarity(best[1:]))) < math.sqrt(stop.tolerance):
            return best
        options = {"xatol": stop.tolerance, "fatol": 1e-15, "maxiter": stop.iterations}
        ends = [minimize(self.objective, start, method="Nelder-Mead", options=options).x for start in self.starts()]
        return self.least([*ends, *(self.polished(end, stop) for end in ends)])

    def polished(self, start: Sequence[float], stop: Stopping) -> Sequence[float]:
        found: Sequence[float] = root(self.stationarity, start, tol=stop.tolerance).x
        return found

    def least(self, points: Sequence[Sequence[float]]) -> tuple[float, float, float]:
        """The best of these points: its objective, κ and log γ."""
        return min((self.objective(point), float(point[0]), float(point[1])) for point in points)

    def starts(self) -> list[tuple[float, float]]:
        """(κ, log γ) of X = B, and of X along G: one of them is in the valley of the minimum."""
        D_b = self.start_size
        D_g = math.sqrt(float(np.sum(self.h * self.gg)))
        c_b = abs(float(np.sum(self.bg))) / (self.size * D_b)
        c_g = float(np.sum(self.gg)) / (self.size * D_g) if D_g > 0 else 0.0
        return [
            (c / (D_b**2 * mu), -math.log(self.size * D_b * mu))
            for mu in self.multipliers()
            for c in (c_b, c_g)
            if c > 0 or c == c_b
        ]

    def multipliers(self) -> list[float]:
        """μ to start from; the norm's depends on how far X goes, so that several distances are tried."""
        if self.penalty.form == "squared":
            return [self.penalty.multiplier(0.0)]
        length = float(np.sum(self.bb))
        return [self.penalty.multiplier(length * share**2) for share in (1e-3, 1e-2, 1e-1, 1.0)]
