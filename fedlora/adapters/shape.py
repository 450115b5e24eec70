"""The shape of an adapter at a client's own ranks: what a message for that client must look like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from fedlora.config import AdapterSettings
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, LowRank


def scale_of(settings: AdapterSettings, r: int) -> float:
    """s = α / r, or α / sqrt r (rsLoRA); 1 for rank 0, where it multiplies nothing."""
    if r == 0:
        return 1.0
    return settings.alpha / (math.sqrt(r) if settings.rslora else r)


def require_ranks(template: Adapter, settings: AdapterSettings) -> None:
    """SettingsError for a rank above a side of an adapted matrix: B A has no more than that, and costs as if it had."""
    for name, layer in template.layers.items():
        if settings.r > min(layer.shape):
            m, n = layer.shape
            raise SettingsError(
                f"adapter.r={settings.r} is above the smaller side of {name} ({m} x {n}); set it to {min(m, n)} or "
                "less, or leave that matrix out of adapter.targets."
            )


def shaped(template: Adapter, settings: AdapterSettings, ranks: Mapping[str, int] | None) -> Adapter:
    """`template` at these ranks, values zero; itself when there are none. ValueError for a matrix that it lacks."""
    if ranks is None:
        return template
    unknown = sorted(ranks.keys() - template.layers.keys())
    if unknown:
        raise ValueError(f"a rank is given for {unknown[0]}, which is not adapted in this model.")
    layers = {
        name: at_rank(layer, settings, ranks[name]) if name in ranks else layer
        for name, layer in template.layers.items()
    }
    return replace(template, layers=layers)


def at_rank(layer: LowRank, settings: AdapterSettings, r: int) -> LowRank:
    if not 0 <= r <= min(layer.shape):
        raise ValueError(f"rank {r} of a matrix of shape {layer.shape}")
    m, n = layer.shape
    return LowRank(layer.B_mr.new_zeros(m, r), layer.A_rn.new_zeros(r, n), scale_of(settings, r))
