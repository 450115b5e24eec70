"""Per-example gradients from Opacus' hooks: the reference, and the choice `privacy.engine: opacus`.

Only the gradients come from Opacus (Yousefpour et al., arXiv 2109.12298); sampling, clipping, noise and accounting stay
fedlora's. The layers that train must be in train mode (`quiet` leaves them), and gradient checkpointing is not
supported: the engine refuses it, because parameters then lack gradients.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from fedlora.privacy.ghost_norms import Gradients
from fedlora.privacy.linears import trained_linears


class OpacusHooks:
    """`attach` puts Opacus' hooks on the model, `detach` takes them off."""

    def __init__(self) -> None:
        self._hooks: Any = None
        self._modules: list[nn.Linear] = []
        self._parameters: list[nn.Parameter] = []
        self._quiet = ExitStack()

    def attach(self, model: nn.Module) -> list[nn.Parameter]:
        from opacus.grad_sample import GradSampleHooks  # slow to import: only who chooses Opacus waits

        self._modules = trained_linears(model)
        self._parameters = [p for module in self._modules for p in module.parameters(recurse=False) if p.requires_grad]
        self._hooks = GradSampleHooks(model, batch_first=True, loss_reduction="sum", strict=False)
        self._hooks.disable_hooks()
        return self._parameters

    def detach(self) -> None:
        if self._hooks is not None:
            self._hooks.cleanup()
        self._hooks = None

    def begin(self, batch: int) -> None:
        self._forget()
        self._hooks.enable_hooks()
        self._quiet.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # first layers have frozen inputs

    def _forget(self) -> None:
        """What a microbatch that failed in its backward pass has left behind: the next one would be taken for a part
        of it."""
        for parameter in self._parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]  # the attributes are Opacus' interface
            parameter._forward_counter = 0  # type: ignore[attr-defined]
            parameter.__dict__.pop("_current_grad_sample", None)
        for module in self._modules:
            module.__dict__.pop("activations", None)
            module.__dict__.pop("max_batch_len", None)

    def end(self) -> dict[Tensor, Gradients]:
        """What the hooks found; p.grad is left in place, for the engine to refuse, where they did not find it all."""
        self._quiet.close()
        self._hooks.disable_hooks()
        found: dict[Tensor, Gradients] = {}
        for parameter in self._parameters:
            gradients = parameter.grad_sample  # type: ignore[attr-defined]  # as above
            parameter.grad_sample = None  # type: ignore[attr-defined]  # as above
            if isinstance(gradients, Tensor):
                found[parameter] = gradients
                if parameter.grad is not None and _is_sum(parameter.grad, gradients):
                    parameter.grad = None
        return found


def _is_sum(total: Tensor, gradients: Tensor) -> bool:
    expected = gradients.float().sum(0)
    if not bool(expected.isfinite().all()):
        return True
    size = float(gradients.abs().max())
    rounding = 1e-3 if gradients.dtype == torch.float32 else 2e-2  # a sum of bfloat16 numbers, rounded to bfloat16
    return torch.allclose(total.float(), expected, rtol=rounding, atol=rounding * size)
