"""Dropout in a pass of several clients: every client's masks are those that it draws alone.

By itself a client draws a mask of its own batch's shape from its own stream, at each place of the model in turn. Here
every place asks each client's stream for a mask of that shape and puts it at the client's rows; what is padding to the
client alone stays without. A client's rows must stand side by side in one pass, all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from client.together.untrained import UntrainedError


@dataclass(frozen=True)
class Place:
    """A client's rows in a pass, and what its own batch is padded to."""

    stream: torch.Generator
    rows: slice
    length: int


class DrawnByEach(TorchFunctionMode):
    """While it is entered, torch's dropout draws for each of `places`, in a pass that is padded to `length`."""

    def __init__(self, places: Sequence[Place], length: int) -> None:
        super().__init__()
        self.places = places
        self.length = length

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.dropout:
            return self.dropped(*args, **given)
        if func is functional.scaled_dot_product_attention and given.get("dropout_p", 0.0) > 0:
            return self.attended(*args, **given)
        return func(*args, **given)

    def dropped(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return input * self.mask(input, p) if training and p > 0 else input

    def attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As torch computes it where it drops: softmax(Q Kᵀ · scale + mask), dropped, · V."""
        if enable_gqa:
            key, value = (part.repeat_interleave(query.size(-3) // part.size(-3), -3) for part in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1)
        return weights * self.mask(weights, dropout_p) @ value

    def mask(self, like: Tensor, p: float) -> Tensor:
        """Zeros and 1 / (1 - p)."""
        mask = torch.zeros_like(like)
        for place in self.places:
            there = mask[(place.rows, *self._own(like, place))]
            drawn = torch.empty(there.shape, dtype=like.dtype, device=like.device)
            there.copy_(drawn.bernoulli_(1 - p, generator=place.stream).div_(1 - p))
        return mask

    def _own(self, like: Tensor, place: Place) -> tuple[slice, ...]:
        """Which part of (n, t, d), (n, heads, t, t) or (n, d) the client has alone."""
        axes = {2: (), 3: (1,), 4: (2, 3)}.get(like.dim())
        if axes is None or like.shape[0] != self.places[-1].rows.stop:
            raise UntrainedError(f"dropout of a {tuple(like.shape)} is not of rows, of positions or of attention")
        cut = [slice(place.length) if axis in axes and like.shape[axis] == self.length else slice(None)
               for axis in range(1, like.dim())]  # fmt: skip
        return tuple(cut)
