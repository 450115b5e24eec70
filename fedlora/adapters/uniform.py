"""One rank for every matrix and no scale beside them: what every program that reads adapters takes for the same thing.

PEFT reads a rank and a scale for each matrix; vLLM divides one alpha by one rank; llama.cpp divides one alpha by each
matrix's own rank; Ollama wants that alpha to be a whole number. With the scale folded into B, all ranks alike and
alpha = rank, all four multiply by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.lowrank import Product, compact, product_of, stack, truncate
from fedlora.updates import Adapter

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM makes room for (its `--max-lora-rank`, but for 1), so that no room is left empty."""

FLOAT32 = 2.0**-24
"""Relative rounding of one number: a direction that is smaller than that is lost in the file anyway."""


@dataclass(frozen=True)
class Uniform:
    """Every matrix's change as B (m, r) · A (r, n) of one rank, in float32."""

    rank: int
    factors: Mapping[str, tuple[Tensor, Tensor]]
    left_out: float = 0.0
    """Frobenius norm of what did not fit into the rank, relative to that of everything; 0 where all of it did."""


def uniform(products: Mapping[str, Product], *, rank: int | None = None) -> Uniform:
    """All changes at one rank: the least of `RANKS` that holds them, or their own largest where it is above those.

    With a `rank`, what is of a higher one is cut down to it, nearest in the Frobenius norm. Guarantee: without it, or
    where it is at least every product's own, B · A is the product to float32's rounding: narrower factors get zeros.
    """
    needed = max(product.rank for product in products.values())
    wanted = rank or next((known for known in RANKS if known >= needed), needed)
    factors, lost, whole = {}, 0.0, 0.0
    for name, product in products.items():
        if product.rank > wanted:
            size = float(torch.linalg.matrix_norm(product.dense()))
            product, missing = truncate(product, wanted)
            lost, whole = lost + missing**2, whole + size**2
        elif wanted < needed:
            whole += float(torch.linalg.matrix_norm(product.dense())) ** 2
        factors[name] = (padded(product.U_mp, wanted, axis=1), padded(product.V_pn, wanted, axis=0))
    return Uniform(wanted, factors, math.sqrt(lost / whole) if lost else 0.0)


def padded(matrix: Tensor, rank: int, *, axis: int) -> Tensor:
    """In float32, filled up with zeros to `rank` along the axis."""
    shape = list(matrix.shape)
    shape[axis] = rank - shape[axis]
    zeros = torch.zeros(shape, dtype=torch.float32)
    return torch.cat([matrix.float().cpu(), zeros], axis).contiguous()


def changes(adapter: Adapter, total: Mapping[str, Product]) -> dict[str, Product]:
    """What a run added to every matrix: its adapter, with scale and core, and what strategies folded into the base."""
    found = {}
    for name in sorted(adapter.layers):
        own = product_of(adapter.layers[name])
        found[name] = compact(stack([total[name], own]), tolerance=FLOAT32) if name in total else own
    return found
