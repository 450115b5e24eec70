"""Terms of a client's loss that depend on its parameters alone. A new one is a file, a setting of `train`, a line here.

A term adds its gradient to what is in `p.grad` before every step of the optimiser. Under privacy the gradient of the
loss has its noise by then: a term looks at no example, only at parameters that are private already and at what was
received, so that it is post-processing, changes no charge, and is not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import nn

from client.terms.proximal import Proximal
from fedlora.config import TrainSettings


class Term(Protocol):
    """A term, made before the first step, when parameters are as they were received."""

    def add(self) -> None:
        """Add its gradient to that of every parameter which has one."""
        ...


TERMS: Mapping[str, Callable[[float, Sequence[nn.Parameter]], Term]] = {"proximal_mu": Proximal}
"""By the setting of `train` that weighs it; 0 is without it."""


def terms_of(settings: TrainSettings, parameters: Sequence[nn.Parameter]) -> list[Term]:
    """Those of a round, on what its client trains and sends."""
    weights = {name: float(getattr(settings, name)) for name in TERMS}
    return [TERMS[name](weight, parameters) for name, weight in weights.items() if weight]
