"""The engine's test of a model before it trains on data: is the loss of each example computed from that example alone?

With three examples i, j, k of one shape, in the very mode that trains (train flags, autocast, checkpointing):

    loss of i beside j, of j beside k, of i beside k    the gradient of the other must be exactly zero
    i beside j and i beside k, j beside i and beside k  the same losses and the same gradient: company changes nothing
    i after k                                           nor does the place in it (a mask that is drawn by place from a
                                                        seed of the model's own is the same in every try)
    i by itself                                         nor does the size of the batch

Each under another state of the process's random generators, and none may draw from one: `chance`. The largest batch is
tried for couplings, and its first example against that example by itself.

Guarantee: what passes is, on these three, a function of each example alone to 1e-4 (on a CPU in float32; in bfloat16
that holds among batches of one size and place, and to 1e-2 between two). It finds every coupling and every draw we know
of; it proves none absent: what first shows in later steps, or on other tokens, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlora.privacy.chance import without_draws
from fedlora.privacy.ghost_norms import Gradients, only, squares
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
    on_cpu: bool

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
    i_after_k, k_before_i = _pair(backward, i, k, first=True, state=1, turned=True)
    i_alone = _alone(backward, i)
    others = (j_beside_i, k_beside_j, k_beside_i, k_before_i)
    if not all(seen.finite for seen in (i_beside_j, j_beside_k, i_beside_k, i_after_k, i_alone, *others)):
        return False
    for other in others:
        _require_untouched(other)
    on_cpu = i_alone.on_cpu
    tight = TIGHT_CPU if on_cpu else TIGHT_ELSEWHERE
    _require_same_loss(j_beside_i, j_beside_k, tight)
    _require_same_loss(i_beside_j, i_beside_k, tight)
    _require_same_gradient(i_beside_j, i_beside_k, tight, floor=FLOOR * clip)
    for other in (i_after_k, i_alone):
        _require_same_elsewhere(i_beside_k, other, clip=clip, computes_in=computes_in)
    return True


def require_whole_batch(backward: Backward, indices: Tensor, *, clip: float, computes_in: torch.dtype) -> None:
    """Refuse a model that couples examples in a batch of the largest size, that the batch makes non-finite, or whose
    first example is another one there than by itself."""
    weights_n = torch.zeros(len(indices))
    weights_n[0] = 1.0
    losses_n, gradients = without_draws(1, lambda: backward(indices, weights_n))
    first = _seen(losses_n, gradients, 0)
    if not first.finite:
        raise not_finite()
    for other in range(1, len(indices)):
        _require_untouched(_seen(losses_n, gradients, other))
    _require_same_elsewhere(first, _alone(backward, indices[:1]), clip=clip, computes_in=computes_in)


def not_finite() -> Refusal:
    """Refuse losses or gradients that are not finite: the run would train on noise alone without saying so."""
    return Refusal(
        Code.UNSUPPORTED_MODEL,
        "the model, with the adapter it was sent, gives losses or gradients of test examples that are not finite, "
        "so that every example would count as zero; check the adapter's values, or use model.dtype=float32.",
    )


def _pair(
    backward: Backward, left: Tensor, right: Tensor, *, first: bool, state: int, turned: bool = False
) -> tuple[Seen, Seen]:
    """Both examples, where only the first's (or only the second's) loss is differentiated; turned, the second stands
    before the first."""
    order = [1, 0] if turned else [0, 1]
    both, weights_n = torch.cat([left, right])[order], torch.tensor([1.0, 0.0] if first else [0.0, 1.0])[order]
    losses_n, gradients = without_draws(state, lambda: backward(both, weights_n))
    return _seen(losses_n, gradients, order[0]), _seen(losses_n, gradients, order[1])


def _alone(backward: Backward, example: Tensor) -> Seen:
    losses_n, gradients = without_draws(1, lambda: backward(example, torch.ones(1)))
    return _seen(losses_n, gradients, 0)


def _seen(losses_n: Tensor, gradients: PerSample, example: int) -> Seen:
    on_cpu = losses_n.device.type == "cpu"
    return Seen(float(losses_n[example]), {p: only(found, example) for p, found in gradients.items()}, on_cpu)


def _require_untouched(other: Seen) -> None:
    if any(bool(_formed(gradient).any()) for gradient in other.gradients.values()):
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            "the loss of one example depends on another one in its batch; remove what mixes examples "
            "(batch statistics, in-batch negatives, a mean over the batch).",
        )


def _require_same_elsewhere(one: Seen, other: Seen, *, clip: float, computes_in: torch.dtype) -> None:
    """In a batch of another size, or at another place in it: other kernels may compute it."""
    loss, gradient = OTHER_SIZE_CPU[computes_in] if one.on_cpu else OTHER_SIZE_ELSEWHERE
    _require_same_loss(one, other, loss)
    _require_same_gradient(one, other, gradient, floor=FLOOR * clip)


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
        f"the {what} of one example depends on another one in its batch: it changes with the other examples, or from "
        "one try to the next; take means within each example only (no `labels=`, no batch statistics), and turn off "
        "randomness such as dropout.",
    )


def _formed(gradient: Gradients) -> Tensor:
    return gradient if isinstance(gradient, Tensor) else gradient.formed()
