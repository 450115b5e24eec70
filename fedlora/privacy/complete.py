"""Refusals of a microbatch that has not one loss, or not one gradient of everything that trains, for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fedlora.privacy.refusal import Code, Refusal
from fedlora.privacy.rehearsal import PerSample


def require_one_loss_each(losses_n: Tensor, batch: int) -> None:
    if tuple(losses_n.shape) != (batch,):
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            f"the loss has shape {tuple(losses_n.shape)}, expected ({batch},): one loss per example; use "
            'reduction="none", and for tokens a mean within each example.',
        )


def require_complete(
    gradients: PerSample,
    trained: Iterable[nn.Parameter],
    batch: int,
    *,
    shape_of: Callable[[Tensor], torch.Size],
    called: Callable[[Tensor], str],
) -> None:
    """Of every trained parameter (batch, *shape), its shape being that of one example's gradient, and nothing in its
    `grad`: that would be bounded by nobody."""
    for parameter in trained:
        found = gradients.get(parameter)
        if found is None or tuple(found.shape) != (batch, *shape_of(parameter)):
            shape = None if found is None else tuple(found.shape)
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{called(parameter)} trains but has no gradient per example (got {shape} for {batch} "
                "examples); freeze it, or make every example pass through its layer.",
            )
        if parameter.grad is not None:
            parameter.grad = None
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{called(parameter)} is also used outside its layer's forward (DoRA, weight tying): that "
                "part of its gradient cannot be clipped per example; freeze it.",
            )
