"""Adam with a longer memory, for the few noisy steps of a private round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import AdamW, Optimizer


def calm_adam(groups: Sequence[Mapping[str, Any]], *, lr: float, weight_decay: float = 0.0) -> Optimizer:
    """`groups` have a learning rate each: of the adapter, and of what trains whole (`train.head_lr`)."""
    return AdamW([dict(group) for group in groups], lr=lr, weight_decay=weight_decay, betas=(0.95, 0.999), eps=1e-6)
