"""Products of float32 numbers in float32, whatever the process has been set to.

With TF32 or bfloat16 inside them, the sum of clipped gradients is off by 1e-3 to 1e-2 of each: a bound on one example's
influence that holds for the norms then does not hold for the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

FULL = "ieee"
"""torch's name for float32 products in full precision."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in full float32 on every device; the precision that was set before comes back at the end."""
    places, one_switch = _places(), _one_switch()
    found = [place.fp32_precision for place in places]
    try:
        if one_switch is not None:
            torch.set_float32_matmul_precision("highest")
        _set(places, [FULL] * len(places))
        yield
    finally:
        if one_switch is not None:
            torch.set_float32_matmul_precision(one_switch)
        _set(places, found)


def _places() -> list[Any]:
    """Where torch from 2.9 on keeps a backend's precision by itself."""
    backends: Any = torch.backends
    return [backends.cuda.matmul, backends.mkldnn.matmul] if hasattr(backends, "fp32_precision") else []


def _one_switch() -> str | None:
    """The older switch for all of them; None where the newer ones were set in a way that it cannot say."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _set(places: list[Any], precisions: list[str]) -> None:
    for place, precision in zip(places, precisions, strict=True):
        if place.fp32_precision != precision:
            place.fp32_precision = precision
