"""Client-level differential privacy: whether a whole client took part, hidden from whoever sees the published adapters.

    Σ_k clip(Δ_k, S) + N(0, z² S²)    over a fixed denominator: the clients that the recipe expects, plus one

Every update is clipped as a whole, over all factors together, and weighs one. The noise enters as one more update, and
every expected client that was not connected, or did not answer, as one that changed nothing: so neither noise nor
denominator depends on who is connected or answers, and each strategy whose state depends on weighted sums of what is
sent needs no change. Who is connected beyond the expected number is not asked in that round.

Adjacency: add or remove one client's updates, the clients that are asked being given. Where more are connected than are
asked, whoever else would have been asked in the removed one's place is another client: replacing one costs twice the S.

The coordinator is trusted with the single updates; against the coordinator there is only the sites' own example-level
privacy. The two ε have different units and are never added.

Source: McMahan et al., Learning Differentially Private Recurrent Language Models (arXiv 1710.06963), with a fixed
denominator.

Guarantee: adding or removing one client's update moves the sum by at most S in L2 norm, and the denominator not at all;
updates that are not finite are taken as no change; noise is from `source` alone, added once for all factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from fedlora.privacy.noise import Source, privatise
from fedlora.privacy.settings import ClientLevelSettings
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, Tensors, Update, add, norm, subtract
from strategies.base import Strategy

NOISE = "(noise)"


def require_linear(strategy: Strategy, name: str) -> None:
    """SettingsError for a strategy that looks at single updates: noise on a sum does not protect what it does."""
    if not strategy.traits.linear_uploads:
        raise SettingsError(
            f"privacy.client_level needs a strategy that depends on sums of updates only; {name} looks at single ones. "
            "Choose ffa, fedit or fedsvd, or example-level privacy (privacy.epsilon)."
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
    """The clipped updates as they come, then one without change for everybody missing, then the noise.

    ValueError where there are more updates than `expected`: the noise would be less than what is accounted.
    """
    start = sent.tensors(trains)
    answered = 0
    for update in updates:
        answered += 1
        if answered > expected:
            raise ValueError(f"more than the {expected} updates that a round of client-level privacy is made for.")
        delta = clipped(subtract(update.adapter.tensors(trains), start), settings.clip)
        yield Update(update.client, 1.0, sent.with_tensors(add(start, delta)))
    for _ in range(expected - answered):
        yield Update("(did not answer)", 1.0, sent)
    noise = noise_like(start, source, noise_std=settings.noise_multiplier * settings.clip)
    yield Update(NOISE, 1.0, sent.with_tensors(add(start, noise)))


def clipped(delta: Tensors, bound: float) -> dict[str, Tensor]:
    """delta scaled down to norm `bound` where it is larger; zero where it is not finite."""
    size = norm(delta)
    if not math.isfinite(size):
        return {name: torch.zeros_like(tensor) for name, tensor in delta.items()}
    factor = min(1.0, bound / size) if size else 1.0
    return {name: tensor * factor for name, tensor in delta.items()}


def noise_like(tensors: Tensors, source: Source, *, noise_std: float) -> dict[str, Tensor]:
    """Independent noise of this standard deviation for every value, from one fresh stream."""
    sizes = [tensor.numel() for tensor in tensors.values()]
    flat = privatise(torch.zeros(sum(sizes), dtype=torch.float64), source.fresh(), noise_std=noise_std)
    pieces = torch.split(flat, sizes)
    return {
        name: piece.view(tensor.shape).to(tensor.dtype)
        for (name, tensor), piece in zip(tensors.items(), pieces, strict=True)
    }
