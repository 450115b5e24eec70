"""Measured sensitivity: how far one example moves the clipped sum, which the accountant assumes to be at most C.

    with engine:
        found = sensitivity(engine, loss_per_example, torch.arange(128))
        found.largest                     # max over i of ‖S(D) − S(D − i)‖ / C, which should be at most 1 + 1e-4

S(D) is summed once; every S(D − i) is summed again from the whole batch without i, as a site without that example
would: in its own microbatches, in its own order. That costs n + 1 batches of n examples. `sensitivity_by_piece` sums a
microbatch that both batches have once, some five times faster: it sees what company and shape do within a microbatch,
and not what one microbatch leaves behind for the next (a random generator's state). Neither is private: for tests,
audits and attacks on examples that are nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.privacy.engine import LossPerExample, PrivateEngine


@dataclass(frozen=True)
class Sensitivity:
    """‖S(D) − S(D − i)‖ / C by the index i that was left out."""

    by_index: dict[int, float]

    @property
    def largest(self) -> float:
        return max(self.by_index.values())


Summed = Callable[[Tensor], Tensor]
"""The clipped sum over some indices (n,), flat, float64."""


def sensitivity(
    engine: PrivateEngine,
    loss_per_example: LossPerExample,
    indices: Tensor,
    *,
    leaving_out: Sequence[int] | None = None,
) -> Sensitivity:
    """Leave out every index of the batch `indices` (n,), or those of `leaving_out`, one at a time."""

    def summed(some: Tensor) -> Tensor:
        return torch.cat([total.flatten() for total in engine.clipped_sum(some, loss_per_example).values()])

    return _measured(summed, indices, leaving_out, clip=engine.mechanism.clip)


def sensitivity_by_piece(
    engine: PrivateEngine,
    loss_per_example: LossPerExample,
    indices: Tensor,
    *,
    leaving_out: Sequence[int] | None = None,
) -> Sensitivity:
    """The same, computing every microbatch once: see the top of this file for what that cannot see."""
    known: dict[tuple[int, ...], Tensor] = {}

    def summed_piece(piece: Tensor) -> Tensor:
        key = tuple(piece.tolist())
        if key not in known:
            totals = engine.clipped_sum(piece, loss_per_example).values()
            known[key] = torch.cat([total.flatten() for total in totals])
        return known[key]

    def summed(some: Tensor) -> Tensor:
        return torch.stack([summed_piece(piece) for piece in engine.pieces(some, loss_per_example)]).sum(0)

    return _measured(summed, indices, leaving_out, clip=engine.mechanism.clip)


def _measured(summed: Summed, indices: Tensor, leaving_out: Sequence[int] | None, *, clip: float) -> Sensitivity:
    gone = indices.tolist() if leaving_out is None else leaving_out
    whole = summed(indices)
    return Sensitivity({index: float((whole - summed(indices[indices != index])).norm()) / clip for index in gone})
