"""Exact per-example gradients of small linear layers in one forward and one backward, without hooks.

Shapes: n examples of the microbatch, t positions, i in, o out.

While the engine records, the class of every `nn.Linear` that trains (lora_A, lora_B, the LoRA-XS core, a head) is
swapped. The swapped layer computes what it always did, from a weight that is expanded to one leaf per example:

    W_oi  ──expand──►  W_noi (a leaf, stride 0: no memory)      y_nto = bmm(x_nti, W_noiᵀ)
                          └─ backward ─► W_noi.grad = every example's own gradient

so autograd itself yields per-example gradients; both kinds of gradient checkpointing, bf16 autocast, shared weights and
a layer called twice need nothing special. PEFT's modules, their API and their state_dict are untouched.

`FusedLinear` is the fast twin: its backward writes the same per-example gradients with one `bmm`, and never transposes
or copies an expanded weight. `ExpandedLinear` is the slow clear twin that it is tested against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from fedlora.privacy.refusal import Code, Refusal


class Recorder:
    """The per-example gradients of one microbatch, parameter by parameter.

    Between `begin` and `end` every swapped layer must see exactly `batch` examples in dim 0; anything else refuses.
    """

    def __init__(self) -> None:
        self.batch: int | None = None
        self._leaves: dict[Tensor, Tensor] = {}
        self._added: dict[Tensor, Tensor] = {}

    def begin(self, batch: int) -> None:
        self.batch = batch
        self._leaves, self._added = {}, {}

    def end(self) -> dict[Tensor, Tensor]:
        """Every parameter's gradients (n, *shape); a parameter that no example reached is absent."""
        self.batch = None
        leaves, added, self._leaves, self._added = self._leaves, self._added, {}, {}
        return added | {parameter: leaf.grad for parameter, leaf in leaves.items() if leaf.grad is not None}

    def add(self, parameter: Tensor, gradients: Tensor) -> None:
        """Add to the parameter's gradients (n, *shape), kept in the parameter's dtype also under autocast."""
        gradients = gradients.to(parameter.dtype)
        known = self._added.get(parameter)
        self._added[parameter] = gradients if known is None else known.add_(gradients)

    def leaf(self, parameter: Tensor) -> Tensor:
        """The parameter, once per example; the same leaf for every use of it in this microbatch."""
        if parameter not in self._leaves:
            assert self.batch is not None
            self._leaves[parameter] = parameter.detach().expand(self.batch, *parameter.shape).requires_grad_()
        return self._leaves[parameter]

    def positions(self, x: Tensor) -> Tensor:
        """x as (n, t, i). Refuses a dim 0 that is not the declared batch, and gradients outside `begin` and `end`."""
        if self.batch is None:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                "the model was run with gradients outside engine.step; only engine.step may train it "
                "(evaluate under torch.no_grad()).",
            )
        if x.dim() < 2 or x.shape[0] != self.batch:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"a trained layer got an input of shape {tuple(x.shape)} where dim 0 must be the {self.batch} examples "
                "of the microbatch; keep the batch first everywhere, and return one loss per index.",
            )
        return x.reshape(self.batch, -1, x.shape[-1])


class ExpandedLinear(nn.Linear):
    """The slow clear twin: the weight is a leaf with one copy (stride 0) per example."""

    recorder: Recorder

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        x_nti = self.recorder.positions(input)
        if self.weight.requires_grad:
            y_nto = torch.bmm(x_nti, self.recorder.leaf(self.weight).mT)
        else:
            y_nto = functional.linear(x_nti, self.weight)
        if self.bias is not None:
            trains = self.bias.requires_grad
            y_nto = y_nto + (self.recorder.leaf(self.bias).unsqueeze(1) if trains else self.bias)
        return y_nto.reshape(*input.shape[:-1], self.out_features)


class FusedLinear(nn.Linear):
    """The fast twin: an ordinary forward, and one `bmm` for the per-example gradients in the backward."""

    recorder: Recorder

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        x_nti = self.recorder.positions(input)
        if torch.is_autocast_enabled(input.device.type):
            x_nti = x_nti.to(torch.get_autocast_dtype(input.device.type))
        y_nto: Tensor = _PerExample.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            x_nti, self.weight, self.bias, self.recorder
        )
        return y_nto.reshape(*input.shape[:-1], self.out_features)


class _PerExample(torch.autograd.Function):
    """y = x Wᵀ + b whose backward hands the per-example gradients to the recorder, and none to W and b."""

    @staticmethod
    def forward(ctx: Any, x_nti: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, recorder: Recorder) -> Tensor:
        ctx.save_for_backward(x_nti if weight.requires_grad else None)
        ctx.weight, ctx.bias, ctx.recorder = weight, bias, recorder
        return functional.linear(x_nti, weight.to(x_nti.dtype), None if bias is None else bias.to(x_nti.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_nto: Tensor) -> tuple[Tensor | None, None, None, None]:
        weight, bias = ctx.weight, ctx.bias
        if weight.requires_grad:
            (x_nti,) = ctx.saved_tensors
            ctx.recorder.add(weight, torch.bmm(g_nto.mT, x_nti))
        if bias is not None and bias.requires_grad:
            ctx.recorder.add(bias, g_nto.sum(1))
        x_grad = torch.matmul(g_nto, weight.to(g_nto.dtype)) if ctx.needs_input_grad[0] else None
        return x_grad, None, None, None


def trained_linears(model: nn.Module) -> list[nn.Linear]:
    """Every `nn.Linear` that owns a trained parameter. Subclasses are left out: what they compute is unknown."""
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear and any(p.requires_grad for p in module.parameters(recurse=False))
    ]


class _Swapped:
    """A source of per-example gradients: `attach`; `begin`, forward, backward, `end` per microbatch; `detach`."""

    def __init__(self, to: type[ExpandedLinear] | type[FusedLinear]) -> None:
        self._to = to
        self._recorder = Recorder()
        self._modules: list[nn.Linear] = []

    def attach(self, model: nn.Module) -> list[nn.Parameter]:
        """Swap; returns the parameters that now have per-example gradients."""
        self._modules = trained_linears(model)
        for module in self._modules:
            module.__class__ = self._to
            module.__dict__["recorder"] = self._recorder
        return [p for module in self._modules for p in module.parameters(recurse=False) if p.requires_grad]

    def detach(self) -> None:
        for module in self._modules:
            module.__class__ = nn.Linear
            module.__dict__.pop("recorder", None)
        self._modules = []

    def begin(self, batch: int) -> None:
        self._recorder.begin(batch)

    def end(self) -> dict[Tensor, Tensor]:
        return self._recorder.end()


def expanded() -> _Swapped:
    """Per-example gradients by autograd alone: slow and clear."""
    return _Swapped(ExpandedLinear)


def fused() -> _Swapped:
    """The same gradients, faster: the default."""
    return _Swapped(FusedLinear)
