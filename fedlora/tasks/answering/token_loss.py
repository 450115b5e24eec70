"""The loss of single tokens under a frozen output matrix, without ever holding the logits of all of them.

    ℓ_i = logsumexp(W h_i + c) - (W h_i + c)_{y_i}          ∂ℓ_i/∂h_i = Wᵀ (softmax(W h_i + c) - e_{y_i})

A token's loss depends on its own hidden state alone, and W does not train: the gradient is known as soon as the logits
are, and only as many of them as `CHUNK` are there at a time. 64 rows of 64 answer tokens over 49,152 words would be
805 MB, three times in a step.

Guarantee: a token's loss and gradient do not depend on how many other tokens there are, to the last bit where the rows
of a product do not depend on each other. Every product has `CHUNK` rows, the last one's filled up with zeros: their
number would choose the kernel, and its last bits were 1.5e-4 of the gradient of a text of two tokens at SmolLM2.
Shapes: n tokens, d hidden units, v words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 64
"""Tokens whose logits are held at a time: 13 MB over 49,152 words."""


class _TokenNats(torch.autograd.Function):
    """Once differentiable, in `hidden_nd` alone."""

    @staticmethod
    def forward(ctx: Any, hidden_nd: Tensor, weight_vd: Tensor, bias_v: Tensor | None, next_n: Tensor) -> Tensor:
        nats, gradients, exact = [], [], torch.promote_types(hidden_nd.dtype, torch.float32)
        for hidden_cd, next_c in zip(chunks(hidden_nd), chunks(next_n), strict=True):
            logits_cv = logits_of(hidden_cd, weight_vd, bias_v).to(exact)
            nats.append(functional.cross_entropy(logits_cv, next_c, reduction="none"))
            if ctx.needs_input_grad[0]:
                error_cv = logits_cv.softmax(-1)
                error_cv[torch.arange(len(next_c)), next_c] -= 1
                gradient_cd = filled_up(error_cv.to(weight_vd.dtype)) @ weight_vd
                gradients.append(gradient_cd[: len(next_c)].to(hidden_nd.dtype))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(nats)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient_nd,) = ctx.saved_tensors
        return gradient_nd * upstream[0][:, None].to(gradient_nd.dtype), None, None, None


def token_nats(hidden_nd: Tensor, weight_vd: Tensor, bias_v: Tensor | None, next_n: Tensor) -> Tensor:
    """(n,): each token's loss in nats, at least in float32; its gradient reaches `hidden_nd`, not the matrix."""
    with torch.autocast(hidden_nd.device.type, enabled=False):
        nats_n: Tensor = _TokenNats.apply(hidden_nd, weight_vd, bias_v, next_n)  # type: ignore[no-untyped-call]
        return nats_n


@torch.no_grad()
def likeliest(hidden_nd: Tensor, weight_vd: Tensor, bias_v: Tensor | None) -> Tensor:
    """(n,): the word with the largest logit at each token."""
    with torch.autocast(hidden_nd.device.type, enabled=False):
        found = [logits_of(hidden_cd, weight_vd, bias_v).argmax(-1) for hidden_cd in chunks(hidden_nd)]
    return torch.cat(found)


def logits_of(hidden_cd: Tensor, weight_vd: Tensor, bias_v: Tensor | None) -> Tensor:
    """(c, v), of at most `CHUNK` tokens, in the matrix's own dtype."""
    logits_v = functional.linear(filled_up(hidden_cd.to(weight_vd.dtype)), weight_vd, bias_v)
    return logits_v[: len(hidden_cd)]


def filled_up(rows: Tensor) -> Tensor:
    """With rows of zeros, to `CHUNK` of them."""
    return functional.pad(rows, (0, 0, 0, CHUNK - len(rows)))


def chunks(values_n: Tensor) -> tuple[Tensor, ...]:
    """At least one, which may be empty."""
    return torch.split(values_n, CHUNK)
