"""The vocabulary of every other module: low-rank layers, adapters, updates.

For one adapted matrix, m = out features, n = in features, r = rank, s = α/r (rsLoRA: α/√r):

        x (n) ──► W0 (m,n, frozen) ─────────────────────► + ──► y (m)
          └─────► A (r,n) ──► [R (r,r)] ──► B (m,r) ──· s ─┘

    LoRA     ΔW = s · B A          LoRA-XS (Fed-SB)     ΔW = s · B R A   with B and A fixed

Everything here is in this orientation, whatever a layer stores (GPT-2's Conv1D stores W0 as (n, m); only
`fedlora.adapters` knows). Flat names, for whatever travels or is stored: `<layer>.A`, `<layer>.B`, `<layer>.R`,
and `<module path>/<parameter>` (head/weight) of what trains whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlora.factor import DENSE_SEPARATOR as DENSE_SEPARATOR
from fedlora.factor import Factor as Factor
from fedlora.factor import factor_of as factor_of

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class LowRank:
    """One adapted matrix: ΔW (m, n) = s · B · [R ·] A, never formed unless `dense` is asked for."""

    B_mr: Tensor
    A_rn: Tensor
    scale: float
    R_rr: Tensor | None = None

    def __post_init__(self) -> None:
        m, r = self.B_mr.shape
        r_a, n = self.A_rn.shape
        if r != r_a or (self.R_rr is not None and tuple(self.R_rr.shape) != (r, r)):
            core = None if self.R_rr is None else tuple(self.R_rr.shape)
            raise ValueError(f"factors do not fit: B is {(m, r)}, R is {core}, A is {(r_a, n)}; the ranks must agree.")

    @property
    def rank(self) -> int:
        return int(self.A_rn.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix that is adapted."""
        return int(self.B_mr.shape[0]), int(self.A_rn.shape[1])

    def left_mr(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """U with ΔW = U · A: the scale and the core R folded into B."""
        left = self.B_mr.to(dtype)
        if self.R_rr is not None:
            left = left @ self.R_rr.to(dtype)
        return self.scale * left

    def dense(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """ΔW (m, n): for tests, exports and small layers."""
        return self.left_mr(dtype) @ self.A_rn.to(dtype)


@dataclass(frozen=True)
class Adapter:
    """Every adapted matrix of one model, by module path, and the dense tensors that train with them, by flat name."""

    layers: Mapping[str, LowRank]
    dense: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        if wrong := [name for name in self.dense if DENSE_SEPARATOR not in name]:
            raise ValueError(f"a dense tensor is named <module path>/<parameter>, and this one is {wrong[0]!r}.")

    def tensors(self, factors: Iterable[Factor] = tuple(Factor)) -> dict[str, Tensor]:
        """The chosen factors under flat names, in a canonical order (layers sorted, then dense sorted)."""
        chosen = frozenset(factors)
        flat: dict[str, Tensor] = {}
        for name in sorted(self.layers):
            layer = self.layers[name]
            if Factor.A in chosen:
                flat[f"{name}.A"] = layer.A_rn
            if Factor.B in chosen:
                flat[f"{name}.B"] = layer.B_mr
            if Factor.R in chosen and layer.R_rr is not None:
                flat[f"{name}.R"] = layer.R_rr
        if Factor.DENSE in chosen:
            flat.update({name: self.dense[name] for name in sorted(self.dense)})
        return flat

    def with_tensors(self, tensors: Tensors) -> Adapter:
        """This adapter with the named tensors replaced; a name that it does not have is a KeyError."""
        dense = dict(self.dense)
        factors: dict[str, dict[Factor, Tensor]] = {}
        for name, tensor in tensors.items():
            if DENSE_SEPARATOR in name:
                _ = dense[name]
                dense[name] = tensor
            else:
                layer, _, factor = name.rpartition(".")
                factors.setdefault(layer, {})[Factor(factor)] = tensor
        changed = {name: _with_factors(self.layers[name], given) for name, given in factors.items()}
        return Adapter({**self.layers, **changed}, dense)

    def to(self, dtype: torch.dtype) -> Adapter:
        return self.with_tensors({name: tensor.to(dtype) for name, tensor in self.tensors().items()})


def _with_factors(layer: LowRank, given: Mapping[Factor, Tensor]) -> LowRank:
    """All at once, because the ranks may change together."""
    if Factor.R in given and layer.R_rr is None:
        raise KeyError("R: this layer has no core matrix R")
    return LowRank(
        B_mr=given.get(Factor.B, layer.B_mr),
        A_rn=given.get(Factor.A, layer.A_rn),
        scale=layer.scale,
        R_rr=given.get(Factor.R, layer.R_rr),
    )


@dataclass(frozen=True)
class Update:
    """One client's answer: its adapter after local training, as absolute values, and its weight w_k > 0.

    Weights are not normalised: N_k (or its public bucket), or 1 for a uniform mean. Factors that the strategy
    did not train are the ones that were broadcast. Ranks may differ between clients.
    """

    client: str
    weight: float
    adapter: Adapter


def add(left: Tensors, right: Tensors, *, scale: float = 1.0) -> dict[str, Tensor]:
    """left + scale · right, name by name, in left's dtype; the names must be the same."""
    if left.keys() != right.keys():
        raise KeyError(f"tensor names differ: {sorted(left.keys() ^ right.keys())[:3]}")
    return {name: tensor + (scale * right[name]).to(tensor.dtype) for name, tensor in left.items()}


def subtract(left: Tensors, right: Tensors) -> dict[str, Tensor]:
    """left - right, name by name."""
    return add(left, right, scale=-1.0)


def norm(tensors: Tensors) -> float:
    """L2 norm of all values together, accumulated in float64."""
    return float(sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5)
