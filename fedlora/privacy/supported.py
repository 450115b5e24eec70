"""What the private engine refuses, and the check that training changed what it should and nothing else.

Refused at the door: trained parameters outside layers with per-example gradients (embeddings, norms, Conv1D, DoRA's
magnitude), DoRA whatever trains, batch normalisation in train mode even when it is frozen, and running statistics of
instance normalisation. Refused during a step (`engine`): a batch that is not first, a loss that is not one per example,
a parameter used outside its layer, a loss that changes with the other examples of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fedlora.privacy.refusal import Code, Refusal

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_WHOLE = 1 << 16
_SAMPLED = 1024


def require_supported(model: nn.Module, owned: Iterable[nn.Parameter]) -> None:
    """Refuse a model for which one example's influence cannot be bounded; `owned` have per-example gradients."""
    covered = set(owned)
    if not covered:
        raise Refusal(
            Code.UNSUPPORTED_MODEL, "nothing trains in an nn.Linear; set requires_grad before entering the engine."
        )
    for name, module in model.named_modules():
        if any(getattr(module, "use_dora", {}).values() if isinstance(getattr(module, "use_dora", {}), dict) else ()):
            raise Refusal(
                Code.UNSUPPORTED_MODEL, f"{name} uses DoRA, whose norm mixes A and B outside their layers; use LoRA."
            )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in covered:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name} trains but is not a plain nn.Linear's: there is no gradient per example; freeze it.",
            )
        if parameter.requires_grad and parameter.dtype not in (torch.float32, torch.float64):
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name} trains in {parameter.dtype}, in which norms are off by a percent; keep what trains in float32 "
                "and use autocast.",
            )
    if running := running_batch_norm(model):
        raise Refusal(Code.UNSUPPORTED_MODEL, f"{running} is in train mode: it mixes examples; call its eval().")


def running_batch_norm(model: nn.Module) -> str | None:
    """The name of a module that computes statistics over examples in its present mode."""
    for name, module in model.named_modules():
        if module.training and isinstance(module, _BATCH_NORMS):
            return name or type(module).__name__
        if module.training and isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            return name or type(module).__name__
    return None


def require_same_losses_alone(model: nn.Module, pair: Tensor, loss_per_example: Callable[[Tensor], Tensor]) -> bool:
    """Refuse a loss of one example that changes with its company, as a mean over the batch's tokens does.

    Such a loss passes every look at gradients: its coupling is a factor, not a path. Compared without dropout, to 2 %,
    which padding and bf16 never reach. False when non-finite values hide the answer.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            together = loss_per_example(pair).double()
            alone = torch.cat([loss_per_example(one).double() for one in torch.split(pair, 1)])
    finally:
        for module, training in modes:
            module.training = training
    if not bool((together.isfinite() & alone.isfinite()).all()):
        return False
    if not torch.allclose(together, alone, rtol=0.02, atol=1e-3):
        raise Refusal(
            Code.UNSUPPORTED_MODEL,
            "the loss of one example depends on another one in its batch: it changes with its company; take means "
            "within each example only (no `labels=`, no batch statistics).",
        )
    return True


class Watch:
    """Remembers every parameter, to tell after a step that what trains moved and that what is frozen did not.

    Small tensors are compared whole, large ones by 1,024 evenly spread values: a corrupted or merged base shows in
    those, and a copy of the base would cost its memory again.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._before = {name: _values(parameter) for name, parameter in self._parameters.items()}

    def require_moved(self) -> None:
        for name, parameter in self._parameters.items():
            moved = not torch.equal(_values(parameter), self._before[name])
            if parameter.requires_grad and not moved:
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"{name} trains but did not change in a private step; give its parameter to the optimizer, with a "
                    "learning rate above 0.",
                )
            if moved and not parameter.requires_grad:
                raise Refusal(
                    Code.UNSUPPORTED_MODEL,
                    f"{name} is frozen but changed in a private step; only p.grad of what trains is private.",
                )


@torch.no_grad()
def _values(parameter: Tensor) -> Tensor:
    flat = parameter.detach().flatten()
    if flat.numel() <= _WHOLE:
        return flat.clone()
    stride = flat.numel() // _SAMPLED
    return flat[::stride].clone()
