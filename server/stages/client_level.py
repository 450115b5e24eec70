"""Client-level differential privacy: whether a whole client took part, hidden from whoever sees the published adapters.

    Σ_k clip(Δ_k, S) + N(0, z² S²)    over a fixed denominator: the clients that the recipe expects, plus one

Every update is clipped as a whole, over all factors together, and weighs one; every expected client that was not
connected, or did not answer, changed nothing. So neither noise nor denominator depends on who is connected or answers.
The sum is made in float64, noise is added to it, and the noisy sum is snapped to a grid, as at example level: single
clipped updates beside the noise would show in its low bits. One update, the noisy mean, is all that a strategy is
given: each whose state depends on weighted sums of what is sent needs no change. Who is connected beyond the expected
number is not asked in that round. A round ends when all that were asked have answered, or with its deadline, and never
at a quorum: one client's answer decides nothing about the others'.

Adjacency: add or remove one client's updates, the clients that are asked being given. Where more are connected than are
asked, one client less draws other clients in its place, often several: nothing is claimed of that.

The coordinator is trusted with the single updates; against the coordinator there is only the sites' own example-level
privacy. The two ε have different units and are never added.

Source: McMahan et al., Learning Differentially Private Recurrent Language Models (arXiv 1710.06963), with a fixed
denominator; the grid is Mironov's (see `fedlora.privacy.noise`).

Guarantee: adding or removing one client's update moves the sum by at most S in L2 norm, and the denominator not at all;
updates that are not finite are taken as no change; noise is from `source` alone, added once for all factors; what is
given on is a function of the snapped noisy sum and of what was sent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.config.privacy import ClientLevelSettings
from fedlora.privacy.noise import Source, privatise
from fedlora.updates import Adapter, Factor, Tensors, Update, norm, subtract
from server.stages.base import Round

NOISY_MEAN = "(noisy mean)"


@dataclass(frozen=True)
class ClientLevel:
    """The stage: one noisy mean in the place of all updates."""

    settings: ClientLevelSettings
    expected: int
    source: Source

    @property
    def serves_the_mean(self) -> bool:
        """No: an error against the mean would tell of single updates without noise."""
        return False

    def arrive(self, updates: Iterator[Update], this: Round) -> Iterator[Update]:
        return protected(
            updates,
            sent=this.sent,
            trains=this.trains,
            expected=self.expected,
            settings=self.settings,
            source=self.source,
        )


def protected(
    updates: Iterable[Update],
    *,
    sent: Adapter,
    trains: Sequence[Factor],
    expected: int,
    settings: ClientLevelSettings,
    source: Source,
) -> Iterator[Update]:
    """One update in the place of all, when they are in: what was sent plus the noisy sum over `expected` + 1.

    ValueError where there are more updates than `expected`: the noise would be less than what is accounted.
    """
    start = sent.tensors(trains)
    total = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in start.items()}
    for answered, update in enumerate(updates, start=1):
        if answered > expected:
            raise ValueError(f"more updates than the {expected} for which client-level privacy was calibrated.")
        for name, delta in clipped(subtract(update.adapter.tensors(trains), start), settings.clip).items():
            total[name].add_(delta)
    noisy = with_noise(total, source, noise_std=settings.noise_multiplier * settings.clip)
    mean = {name: (start[name].double() + noisy[name] / (expected + 1)).to(start[name]) for name in start}
    yield Update(NOISY_MEAN, float(expected + 1), sent.with_tensors(mean))


def clipped(delta: Tensors, bound: float) -> dict[str, Tensor]:
    """delta scaled down to norm `bound` where it is larger; zero where it is not finite."""
    size = norm(delta)
    if not math.isfinite(size):
        return {name: torch.zeros_like(tensor) for name, tensor in delta.items()}
    factor = min(1.0, bound / size) if size else 1.0
    return {name: tensor * factor for name, tensor in delta.items()}


def with_noise(total: Tensors, source: Source, *, noise_std: float) -> dict[str, Tensor]:
    """The sum plus independent noise of this standard deviation on every value, snapped, from one fresh stream."""
    flat = privatise(torch.cat([tensor.flatten() for tensor in total.values()]), source.fresh(), noise_std=noise_std)
    pieces = torch.split(flat, [tensor.numel() for tensor in total.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(total.items(), pieces, strict=True)}
