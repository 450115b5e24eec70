"""What the engine tries on examples before it trusts a model with a batch: is each computed from itself alone?

With three examples i, j, k of one shape, in the very mode that trains (train flags, autocast, checkpointing):

    loss of i beside j, of j beside k, of i beside k    the gradient of the other must be exactly zero
    i beside j and i beside k, j beside i and beside k  the same losses and the same gradient: company changes nothing
    i by itself                                         nor does the size of the batch

Each under another state of the process's random generators, and none may draw from one: `chance`.

Guarantee: what passes is, on these three, a function of each example alone to 1e-4 (on a CPU in float32; in bfloat16
that holds among batches of one size, and to 1e-2 between two sizes). It finds every coupling and every draw we know of;
it proves none absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.privacy.chance import without_draws
from fedlora.privacy.outer import Gradients, only, squares
from fedlora.privacy.refusal import Code, Refusal

PerSample = dict[Tensor, Gradients]
Backward = Callable[[Tensor, Tensor], tuple[Tensor, PerSample]]
"""(indices (n,), weight of each loss (n,)) -> losses (n,) and per-example gradients of their weighted sum."""

TIGHT_CPU, TIGHT_ELSEWHERE = 1e-4, 5e-3
"""Relative difference that company may make. Elsewhere: attention's backward on CUDA adds in no fixed order."""

OTHER_SIZE_CPU: Mapping[torch.dtype, tuple[float, float]] = {
    torch.float32: (1e-4, 1e-4),
    torch.bfloat16: (5e-3, 1e-2),
}
OTHER_SIZE_ELSEWHERE = 0.02, 0.1
"""The same, of loss and gradient, for another batch size, which may take other kernels. Measured on a CPU, with the
packaged recipes, seven tiny architectures and two of widths 384 and 512: 1.4e-7 of a loss in float32, and nothing above
`FLOOR` of a gradient; nothing in bfloat16, where two paths on another CPU were 4e-4 apart. On CUDA nothing was."""

FLOOR = 1e-6
"""Of C: a gradient that differs by less moves no clipped sum by what could be seen."""


@dataclass(frozen=True)
class Seen:
    """One example's loss, and its gradients (1, *shape) of every parameter that trains."""

    loss_nats: float
    gradients: PerSample

    @property
    def finite(self) -> bool:
        norm = sum(float(squares(gradient)) for gradient in self.gradients.values())
        return torch.tensor([self.loss_nats, norm]).isfinite().all().item() is True


def examples_are_alone(backward: Backward, triple: Tensor, *, clip: float, computes_in: torch.dtype) -> bool:
    """Refuse a model that couples the three examples or that draws. False when non-finite values hide the answer."""
    i, j, k = torch.split(triple, 1)
    i_beside_j, j_beside_i = _pair(backward, i, j, first=True, state=1)
    k_beside_j, j_beside_k = _pair(backward, k, j, first=False, state=2)
    i_beside_k, k_beside_i = _pair(backward, i, k, first=True, state=2)
    losses_n, gradients = without_draws(1, lambda: backward(i, torch.ones(1)))
    i_alone = _seen(losses_n, gradients, 0)
    others = (j_beside_i, k_beside_j, k_beside_i)
    if not all(seen.finite for seen in (i_beside_j, j_beside_k, i_beside_k, i_alone, *others)):
        return False
    for other in others:
        _require_untouched(other)
    on_cpu = losses_n.device.type == "cpu"
    tight = TIGHT_CPU if on_cpu else TIGHT_ELSEWHERE
    loss, gradient = OTHER_SIZE_CPU[computes_in] if on_cpu else OTHER_SIZE_ELSEWHERE
    _require_same_loss(j_beside_i, j_beside_k, tight)
    _require_same_loss(i_beside_j, i_beside_k, tight)
    _require_same_gradient(i_beside_j, i_beside_k, tight, floor=FLOOR * clip)
    _require_same_loss(i_beside_j, i_alone, loss)
    _require_same_gradient(i_beside_j, i_alone, gradient, floor=FLOOR * clip)
    return True


def require_whole_batch(backward: Backward, indices: Tensor) -> None:
    """Refuse a model that couples examples in a batch of the largest size, or that the batch makes non-finite."""
    weights_n = torch.zeros(len(indices))
    weights_n[0] = 1.0
    losses_n, gradients = without_draws(1, lambda: backward(indices, weights_n))
    if not _seen(losses_n, gradients, 0).finite:
        raise not_finite()
    for other in range(1, len(indices)):
        _require_untouched(_seen(losses_n, gradients, other))


def not_finite() -> Refusal:
    """Training on such values would be training on noise alone, and saying nothing."""
    return Refusal(
        Code.UNSUPPORTED_MODEL,
        "the model, with the adapter it was sent, gives losses or gradients of invented examples that are not finite: "
        "every example would count as zero; look at the adapter's values, or use model.dtype=float32.",
    )


def _pair(backward: Backward, left: Tensor, right: Tensor, *, first: bool, state: int) -> tuple[Seen, Seen]:
    """Both examples, where only the first's (or only the second's) loss is differentiated."""
    both, weights_n = torch.cat([left, right]), torch.tensor([1.0, 0.0] if first else [0.0, 1.0])
    losses_n, gradients = without_draws(state, lambda: backward(both, weights_n))
    return _seen(losses_n, gradients, 0), _seen(losses_n, gradients, 1)


def _seen(losses_n: Tensor, gradients: PerSample, example: int) -> Seen:
    return Seen(float(losses_n[example]), {p: only(found, example) for p, found in gradients.items()})


def _require_untouched(other: Seen) -> None:
    if any(bool(_formed(gradient).any()) for gradient in other.gradients.values()):
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            "the loss of one example depends on another one in its batch; remove what mixes examples "
            "(batch statistics, in-batch negatives, a mean over the batch).",
        )


def _require_same_loss(one: Seen, other: Seen, relative: float) -> None:
    if abs(one.loss_nats - other.loss_nats) > relative * (1e-3 + abs(one.loss_nats)):
        raise _changes("loss")


def _require_same_gradient(one: Seen, other: Seen, relative: float, *, floor: float) -> None:
    norm = difference = 0.0
    for parameter, gradient in one.gradients.items():
        formed, beside = _formed(gradient).double(), _formed(other.gradients[parameter]).double()
        norm += float(formed.square().sum())
        difference += float((formed - beside).square().sum())
    if difference**0.5 > relative * norm**0.5 + floor:
        raise _changes("gradient")


def _changes(what: str) -> Refusal:
    return Refusal(
        Code.UNSUPPORTED_MODEL,
        f"the {what} of one example depends on another one in its batch: it changes with its company, or from one try "
        "to the next; take means within each example only (no `labels=`, no batch statistics), and switch off what "
        "draws.",
    )


def _formed(gradient: Gradients) -> Tensor:
    return gradient if isinstance(gradient, Tensor) else gradient.formed()
