"""An adapter's tensors against the base's: shapes, numbers that are none, and how far every matrix was moved.

    change    ‖ΔW‖_F / ‖W0‖_F, of the matrix that was moved farthest         ΔW = B A, the scale inside

A matrix that is held in few bits has no norm here, and is said to have none. Shapes: m out, n in, p rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from fedlora.exports.source import Source
from fedlora.gate.rule import finite
from fedlora.gate.verdict import Check
from fedlora.lowrank import Product, svd

SHAPES, NUMBERS, CHANGE = "shapes", "numbers", "change"


def scanned(source: Source, model: nn.Module, *, most: float) -> list[Check]:
    """Of the base as it was loaded. What is no number has no norm: it is looked for first, and nothing after it."""
    wrong = list(unfit(source, model))
    checks = [listed(SHAPES, wrong, f"All {len(source.products)} matrices fit the base.")]
    broken = [name for name, tensor in tensors_of(source) if not bool(torch.isfinite(tensor).all())]
    broken = [f"{name} holds what is no number." for name in broken]
    checks.append(listed(NUMBERS, broken, "Every number is finite."))
    return checks if wrong or broken else [*checks, moved(source, model, most=most)]


def listed(name: str, wrong: list[str], right: str) -> Check:
    more = f" And {len(wrong) - 3} more." if len(wrong) > 3 else ""
    said = " ".join(wrong[:3]) + more if wrong else right
    return Check(name=name, passed=not wrong, said=said, figures={"wrong": len(wrong)}, thresholds={"wrong": 0})


def tensors_of(source: Source) -> Iterator[tuple[str, torch.Tensor]]:
    for name, product in source.products.items():
        yield f"{name} (B)", product.U_mp
        yield f"{name} (A)", product.V_pn
    yield from source.dense.items()


def unfit(source: Source, model: nn.Module) -> Iterator[str]:
    """A sentence for every matrix that the base has none for."""
    known = dict(model.named_modules())
    for name, product in source.products.items():
        if product.U_mp.shape[1] != product.V_pn.shape[0]:
            yield f"{name}: B has {product.U_mp.shape[1]} columns and A {product.V_pn.shape[0]} rows."
        elif name not in known:
            yield f"{name} is no matrix of the base."
        elif product.shape != (own := shape_of(known[name])):
            yield f"{name} is {show(product.shape)}, the base's is {show(own) if own else 'no matrix'}."


def shape_of(layer: Any) -> tuple[int, int] | None:
    """(m, n), whatever the layer stores; None for one that is not linear."""
    if isinstance(layer, Conv1D):
        rows, columns = layer.weight.shape
        return int(columns), int(rows)
    return (layer.out_features, layer.in_features) if hasattr(layer, "out_features") else None


def show(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def moved(source: Source, model: nn.Module, *, most: float) -> Check:
    found = {name: relative(product, model.get_submodule(name)) for name, product in source.products.items()}
    known = {name: size for name, size in found.items() if size is not None}
    farthest = max(known, key=lambda name: known[name], default=None)
    unknown = len(found) - len(known)
    said = "No matrix of the base has a norm to compare with."
    if farthest is not None:
        said = f"{farthest} was moved farthest: by {known[farthest]:.2g} of the base's norm; allowed is {most:g}."
    if unknown and farthest is not None:
        said += f" Of {unknown} matrices in few bits nothing is known."
    size = 0.0 if farthest is None else known[farthest]
    return Check(
        name=CHANGE,
        passed=size <= most,
        said=said,
        figures={"largest": finite(size), "matrix": farthest, "unknown": unknown},
        thresholds={"largest": most},
    )


def relative(product: Product, layer: Any) -> float | None:
    """None where the layer's weight is not held in floating point."""
    weight = layer.weight.detach()
    if not weight.is_floating_point():
        return None
    size = float(torch.linalg.vector_norm(svd(product)[1])) if product.rank else 0.0
    whole = float(torch.linalg.vector_norm(weight.double()))
    return size / whole if whole else math.inf if size else 0.0
