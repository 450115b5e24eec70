"""How exact a round's aggregation was: what an exact mean of the clients' ΔW is, against what is served next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fedlora.lowrank import Product, product_of, stack
from fedlora.norms import relative_distance
from fedlora.updates import Adapter


def aggregation_error(
    ideal: Mapping[str, Product], adapter: Adapter, moved: Iterable[Mapping[str, Product]] = ()
) -> float:
    """‖Δ_ideal - Δ_served‖_F / ‖Δ_ideal‖_F over all adapted matrices, scales included.

    Served is the new adapter's ΔW plus whatever this round added to the base (`moved`).
    """
    residuals = list(moved)
    served = {}
    for name, layer in adapter.layers.items():
        parts = [residual[name] for residual in residuals if name in residual]
        served[name] = stack([product_of(layer), *parts])
    return relative_distance(ideal, served)
