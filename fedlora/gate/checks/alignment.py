"""Does what was learnt lie where the base's own alignment lies? The test of every matrix that Safe LoRA makes.

Hsu et al., "Safe LoRA: the Silver Lining of Reducing Safety Risks when Fine-tuning Large Language Models" (arXiv
2405.16833): of an aligned base W0 and the model Wp that it was aligned from, with V = W0 - Wp,

    cosine = <C ΔW, ΔW> / (‖C ΔW‖ ‖ΔW‖)        C = V Vᵀ / ‖V‖        (Frobenius; ‖V‖ falls out)

Two things of it are said here that a bare threshold hides. C has no negative eigenvalue, so a change drawn at random
has a cosine well above zero (0.7 for a V of independent numbers): the bound is relative to that of chance. And it looks
at directions alone: half of a change has the same cosine as all of it, a small one as a large one.

Nothing of C is formed: with ΔW = X Q, Q's rows orthonormal, Vᵀ X is all that is needed. Shapes: m out, n in, p rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fedlora.config import GateSettings
from fedlora.exports.source import Source
from fedlora.gate.verdict import Check
from fedlora.lowrank import Product
from fedlora.models.base import load_base
from fedlora.randomness import generator
from fedlora.settings import SettingsError

ALIGNMENT = "alignment"
DRAWN = 32
"""Columns of what stands for chance."""


@dataclass(frozen=True)
class Direction:
    """Of one matrix."""

    cosine: float
    chance: float
    """The cosine of a change that is drawn at random."""

    @property
    def share(self) -> float:
        return self.cosine / self.chance


def alignment(source: Source, model: nn.Module, unaligned: str, by: GateSettings) -> Check:
    """SettingsError where the other model is none that this base can have been made from."""
    settings = source.model.model_copy(update={"id": unaligned})
    before = load_base(settings, source.about.labels).model
    found = dict(directions(source.products, model, before))
    if not found:
        raise SettingsError(
            f"--unaligned {unaligned}: none of the adapted matrices differs between it and the base, or can be read. "
            "Give the model that the base was aligned from."
        )
    name, least = min(found.items(), key=lambda one: one[1].share)
    off = sum(one.share < by.alignment for one in found.values())
    said = (
        f"{off} of {len(found)} matrices changed away from what alignment moved; farthest {name}: cosine "
        f"{least.cosine:.2g}, {least.share:.2g} of that of chance ({least.chance:.2g}); allowed is {by.alignment:g}."
    )
    figures = {"cosine": least.cosine, "chance": least.chance, "matrix": name, "off": off, "matrices": len(found)}
    return Check(name=ALIGNMENT, passed=not off, said=said, figures=figures, thresholds={"alignment": by.alignment})


def directions(products: Mapping[str, Product], model: nn.Module, before: nn.Module) -> Iterator[tuple[str, Direction]]:
    """Of every matrix that both hold in floating point, that alignment moved, and that the adapter changes."""
    known = dict(before.named_modules())
    for name, product in products.items():
        V_mn = moved(model.get_submodule(name), known.get(name), name)
        X_mp = columns(product)
        if V_mn is not None and bool(V_mn.any()) and bool(X_mp.any()):
            drawn = torch.randn(len(X_mp), DRAWN, generator=generator(0, "alignment", name))
            yield name, Direction(cosine(V_mn, X_mp), cosine(V_mn, drawn))


def moved(layer: Any, other: Any, name: str) -> Tensor | None:
    """V = W0 - Wp (m, n) in float32; None where one of the two is held in few bits."""
    if not hasattr(other, "weight") or other.weight.shape != layer.weight.shape:
        raise SettingsError(f"--unaligned: it has no matrix {name} of that size, and is not what the base was made of.")
    if not (layer.weight.is_floating_point() and other.weight.is_floating_point()):
        return None
    V: Tensor = layer.weight.detach().float() - other.weight.detach().float()
    return V.mT if isinstance(layer, Conv1D) else V


def columns(product: Product) -> Tensor:
    """X of ΔW = X Q, Q's rows orthonormal."""
    R_pp: Tensor = torch.linalg.qr(product.V_pn.double().mT).R
    return product.U_mp.double() @ R_pp.mT


def cosine(V_mn: Tensor, X_mp: Tensor) -> float:
    """Of C ΔW and ΔW; see above.

    >>> V = torch.diag(torch.tensor([1.0, 0.0]))
    >>> cosine(V, torch.tensor([[2.0], [0.0]])), cosine(V, torch.tensor([[0.0], [2.0]]))
    (1.0, 0.0)
    """
    X_mp = X_mp.to(V_mn)
    Y_np = V_mn.mT @ X_mp
    inner, length = float(Y_np.square().sum()), float(torch.linalg.vector_norm(V_mn @ Y_np))
    return inner / (length * float(torch.linalg.vector_norm(X_mp))) if length else 0.0
