"""`codec: auto`: measure the update, then pick.

The client's optimiser decides the shape of its updates: AdamW's are nearly sign-like (kurtosis 2 to 3), where one bit a
value keeps almost everything; SGD's are heavy-tailed (kurtosis 10 and more), where a few large values carry the energy.
"""

from __future__ import annotations

import torch

from fedlora.updates import Tensors
from fedlora.wire.settings import WireSettings
from fedlora.wire.values import CodecName

HEAVY_TAIL = 6.0  # a Gaussian has 3, a Laplace distribution has 6


def kurtosis(tensors: Tensors) -> float:
    """Fourth moment over the squared second, over all values together: 1 for signs, 3 for a Gaussian."""
    values = torch.cat([tensor.flatten().double() for tensor in tensors.values()])
    second = values.square().mean()
    return float(values.pow(4).mean() / second.square()) if second > 0 else 0.0


def choose(tensors: Tensors, settings: WireSettings) -> tuple[CodecName, float]:
    """(codec, density) for this update: the settings' own, or for `auto` what its kurtosis suggests."""
    if settings.codec != "auto":
        return settings.codec, settings.density
    if kurtosis(tensors) < HEAVY_TAIL:
        return "sign", settings.density
    return "int4", min(settings.density, 1 / 16)
