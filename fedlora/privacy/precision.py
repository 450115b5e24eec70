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
"""torch's word for a float32 product that uses all bits of both sides."""


@contextmanager
def full_float32() -> Iterator[None]:
    """Matrix products in full float32 on every device; the precision that was set before comes back at the end."""
    if not hasattr(torch.backends, "fp32_precision"):  # torch before 2.9 has one switch for all
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: Any = torch.backends
    places = [backends.cuda.matmul, backends.mkldnn.matmul]
    found = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = FULL
        yield
    finally:
        for place, precision in zip(places, found, strict=True):
            place.fp32_precision = precision
