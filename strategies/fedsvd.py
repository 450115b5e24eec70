"""FedSVD: train and average B, then re-factor B A by its SVD so that A has orthonormal rows.

Lee et al., "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA", NeurIPS 2025,
arXiv 2505.12805, section 3.

    B = Σ w_k B_k,   U S Vᵀ = SVD(B A),   A' = Vᵀ (r rows),   B' = U S

Guarantees: B' A' = B A; A' A'ᵀ = I; B'ᵀ B' = S², descending; the rows of A' span the row space of A, also when B has
rank below r (the trailing rows of a dense SVD would be arbitrary vectors outside it) or when B = 0 (nothing is done).

The SVD is taken in the row space of A, from a QR of each factor and an r x r core: O((m + n) r²), never m x n.
Since A' never leaves the row space of A_0, FedSVD under (DP-)SGD is FFA-LoRA with an orthonormal A up to a rotation:
the property tests show that equivalence. The gain over FFA-LoRA is the conditioning and the scale of A.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, LowRank, Update
from strategies.base import Combined, State, StrategySettings, Traits
from strategies.mean import factor_mean, in_dtype_of

WELL_CONDITIONED = 1e3  # of A Aᵀ; its rounding errors are multiplied by this in Q Qᵀ - I


class FedSVD(StrategySettings):
    """Freeze A within a round, average B, orthonormalise A after it."""

    period: int = Field(1, ge=1)
    """Re-factor every so many rounds; the paper's default is every round."""

    @property
    def traits(self) -> Traits:
        return Traits(
            paper="arXiv 2505.12805",
            exact=True,
            unequal_ranks=False,
            linear_uploads=True,
            moves_base=False,
            example_level_dp=True,
        )

    def trains(self, round_number: int) -> frozenset[Factor]:
        return frozenset({Factor.B, Factor.DENSE})

    def init(self, adapter: Adapter) -> State:
        for name, layer in adapter.layers.items():
            if layer.rank > min(layer.shape):
                raise SettingsError(
                    f"strategy fedsvd needs orthonormal rows in A, but {name} is {layer.shape[0]} x {layer.shape[1]}; "
                    f"set adapter.r <= {min(layer.shape)}, it is {layer.rank}."
                )
        return State(adapter, memory={"steps": torch.zeros((), dtype=torch.int64)})

    def combine(self, updates: Iterable[Update]) -> Combined:
        return factor_mean(updates, self.weighting)

    def step(self, state: State, combined: Combined) -> State:
        steps = state.memory["steps"] + 1
        mean = combined.mean.with_tensors({n: t.double() for n, t in state.adapter.tensors([Factor.A]).items()})
        if int(steps) % self.period == 0:
            mean = Adapter({name: refactored(layer) for name, layer in mean.layers.items()}, mean.dense)
        return replace(state, adapter=in_dtype_of(state.adapter, mean), memory={"steps": steps})


def refactored(layer: LowRank) -> LowRank:
    """The same B A with orthonormal rows in A and descending column norms in B; a layer with B = 0 is left alone.

    With A = L Q and R_b from a QR of B, the SVD of the r x r core R_b L = U S Vᵀ gives A' = Vᵀ Q and B' = B L V. Signs
    are fixed (the largest entry of each row of A is positive), so that the result does not depend on LAPACK's.
    """
    if not bool(torch.any(layer.B_mr)):
        return layer
    L_rr, Q_rn = orthonormalised(layer.A_rn)
    R_b, _ = torch.geqrf(layer.B_mr)
    _, _, Vh_rr = torch.linalg.svd(R_b[: min(layer.B_mr.shape)].triu() @ L_rr)
    A_rn = Vh_rr @ Q_rn
    largest = A_rn.gather(1, A_rn.abs().argmax(1, keepdim=True))
    sign_r1 = torch.where(largest < 0, -1.0, 1.0).to(A_rn.dtype)
    return replace(layer, A_rn=A_rn * sign_r1, B_mr=layer.B_mr @ (L_rr @ (Vh_rr * sign_r1).mT))


def orthonormalised(A_rn: Tensor) -> tuple[Tensor, Tensor]:
    """A = L Q with orthonormal rows in Q: by Cholesky where that keeps twelve digits, which a first A and every later
    one allow; by Householder's QR otherwise."""
    H_rr = A_rn @ A_rn.mT
    h_r = torch.linalg.eigvalsh(H_rr)
    if float(h_r[0]) * WELL_CONDITIONED > float(h_r[-1]):
        L_rr = torch.linalg.cholesky(H_rr)
        return L_rr, torch.linalg.solve_triangular(L_rr, A_rn, upper=False)
    Q_nr, R_rr = torch.linalg.qr(A_rn.mT)
    return R_rr.mT, Q_nr.mT
