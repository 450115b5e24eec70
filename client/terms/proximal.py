"""FedProx: μ/2 ‖w - w_received‖² holds a client near what it was sent.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv 1812.06127, eq. 2. Its gradient is
μ (w - w_received), in the coordinates that train: A and B, or R, and what trains whole; not ΔW. Zero in the first step
of a round.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class Proximal:
    """The term of one round."""

    def __init__(self, mu: float, parameters: Sequence[nn.Parameter]) -> None:
        self._mu = mu
        self._pairs = [(parameter, parameter.detach().clone()) for parameter in parameters]

    def add(self) -> None:
        for parameter, received in self._pairs:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - received, alpha=self._mu)
