"""A loss of preference training: what it is told of pairs of answers, and what it says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Likelihoods:
    """What a model makes of b pairs of answers, and what the base made of them."""

    chosen_b: Tensor
    """ln π of the chosen answers, in nats: sums over their learnt tokens."""
    rejected_b: Tensor
    chosen_tokens_b: Tensor
    """How many learnt tokens they have; 0 in a pair that is ignored."""
    rejected_tokens_b: Tensor
    reference_b2: Tensor | None
    """ln π_ref of the chosen and of the rejected ones; None where the loss refers to nothing."""

    @property
    def gains(self) -> tuple[Tensor, Tensor]:
        """ln π - ln π_ref of both (b,). ValueError without a reference."""
        if self.reference_b2 is None:
            raise ValueError("these pairs were never shown to the base model; fedlora.models.reference does that.")
        return self.chosen_b - self.reference_b2[:, 0], self.rejected_b - self.reference_b2[:, 1]


class Objective(Protocol):
    """One paper's loss.

    Guarantee: a pair's loss is a function of that pair alone, finite wherever its likelihoods are.
    """

    @property
    def refers(self) -> bool:
        """Whether it needs what the base makes of the answers."""
        ...

    @property
    def starts_at_chance(self) -> bool:
        """Whether a model that is still the base has ln 2 nats and half of the pairs right."""
        ...

    def losses(self, found: Likelihoods) -> Tensor:
        """(b,), in nats where the paper's is."""
        ...

    def margins(self, found: Likelihoods) -> Tensor:
        """(b,), in nats: above zero for a pair that is the right way round."""
        ...
