"""Exact per-example gradients of small linear layers in one forward and one backward, without hooks.

Shapes: n examples of the microbatch, t positions, i in, o out.

While the engine records, the class of every `nn.Linear` that trains (lora_A, lora_B, the LoRA-XS core, a classifier) is
swapped. The swapped layer computes what it always did, from a weight that is expanded to one leaf per example:

    W_oi  ──expand──►  W_noi (a leaf, stride 0: no memory)      y_nto = bmm(x_nti, W_noiᵀ)
                          └─ backward ─► W_noi.grad = every example's own gradient

A wide matrix (a first step's whole gradients) keeps, instead, its input and the gradient of its output, which is that
of a leaf of zeros added to it: `outer` has the norms and sums of the gradients that these two stand for.

Autograd itself yields per-example gradients; both kinds of gradient checkpointing, bf16 autocast, shared weights and
a layer called twice need nothing special. PEFT's modules, their API and their state_dict are untouched.

A fused autograd function in its place was 3 to 5 % slower (docs/LOG.md); the slow twin is a loop over examples, in the
tests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlora.privacy.ghost_norms import FactoredGradient, Gradients, joined, outer_is_smaller
from fedlora.privacy.refusal import Code, Refusal


@dataclass(frozen=True)
class Use:
    """One use of a wide matrix; without a gradient where it was only recomputed for a checkpoint."""

    zeros_nto: Tensor
    x_nti: Tensor
    version: int

    def gradients(self) -> FactoredGradient:
        """Refuses an input that has been written into since: autograd would, if it had kept it itself."""
        if self.x_nti._version != self.version:
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                "the input of a trained layer was changed in place after its use; compute a new tensor instead "
                "(x = x + y, not x += y).",
            )
        assert self.zeros_nto.grad is not None  # `end` looked
        return FactoredGradient(self.zeros_nto.grad, self.x_nti)


class Recorder:
    """The per-example gradients of one microbatch, parameter by parameter.

    Between `begin` and `end` every swapped layer must see exactly `batch` examples in dim 0; anything else refuses.
    """

    def __init__(self) -> None:
        self.batch: int | None = None
        self._leaves: dict[Tensor, Tensor] = {}
        self._uses: dict[Tensor, list[Use]] = {}

    def begin(self, batch: int) -> None:
        self.batch = batch
        self._leaves, self._uses = {}, {}

    def end(self) -> dict[Tensor, Gradients]:
        """Every parameter's gradients (n, *shape); a parameter that no example reached is absent."""
        self.batch = None
        leaves, self._leaves = self._leaves, {}
        uses, self._uses = self._uses, {}
        found: dict[Tensor, Gradients] = {p: leaf.grad for p, leaf in leaves.items() if leaf.grad is not None}
        for parameter, used in uses.items():
            if reached := [use.gradients() for use in used if use.zeros_nto.grad is not None]:
                kept, formed = joined(reached), found.get(parameter)  # both: used at few positions and at many
                found[parameter] = kept.formed() + formed if isinstance(formed, Tensor) else kept
        return found

    def leaf(self, parameter: Tensor) -> Tensor:
        """The parameter, once per example; the same leaf for every use of it in this microbatch."""
        if parameter not in self._leaves:
            assert self.batch is not None
            self._leaves[parameter] = parameter.detach().expand(self.batch, *parameter.shape).requires_grad_()
        return self._leaves[parameter]

    def product(self, x_nti: Tensor, weight_oi: Tensor) -> Tensor:
        """x Wᵀ (n, t, o), so that W has a gradient per example."""
        (o, i), (n, t, _) = weight_oi.shape, x_nti.shape
        if not outer_is_smaller(t, o, i):
            return torch.bmm(x_nti, self.leaf(weight_oi).mT)
        y_nto = functional.linear(x_nti, weight_oi.detach())
        zeros_nto = y_nto.new_zeros(1).expand(n, t, o).requires_grad_()
        self._uses.setdefault(weight_oi, []).append(Use(zeros_nto, x_nti.detach(), x_nti._version))
        return y_nto + zeros_nto

    def positions(self, x: Tensor, *, layer: str) -> Tensor:
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
                f"the trained layer {layer} got an input of shape {tuple(x.shape)} where dim 0 must be the "
                f"{self.batch} examples of the microbatch; keep the batch first everywhere and return one loss per "
                "index, or leave this layer out of adapter.targets.",
            )
        return x.reshape(self.batch, -1, x.shape[-1])


class ExpandedLinear(nn.Linear):
    """An `nn.Linear` whose weight is a leaf with one copy (stride 0) per example."""

    recorder: Recorder
    called: str
    """Its path in the model, for whoever reads a refusal."""

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return functional.linear(input, self.weight, self.bias)
        x_nti = self.recorder.positions(input, layer=self.called)
        if self.weight.requires_grad:
            y_nto = self.recorder.product(x_nti, self.weight)
        else:
            y_nto = functional.linear(x_nti, self.weight)
        if self.bias is not None:
            trains = self.bias.requires_grad
            y_nto = y_nto + (self.recorder.leaf(self.bias).unsqueeze(1) if trains else self.bias)
        return y_nto.reshape(*input.shape[:-1], self.out_features)


def trained_linears(model: nn.Module) -> list[nn.Linear]:
    """Every `nn.Linear` that owns a trained parameter. Subclasses are left out: what they compute is unknown."""
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear and any(p.requires_grad for p in module.parameters(recurse=False))
    ]


class ExpandedLinears:
    """A source of per-example gradients: `attach`; `begin`, forward, backward, `end` per microbatch; `detach`."""

    def __init__(self) -> None:
        self._recorder = Recorder()
        self._modules: list[nn.Linear] = []

    def attach(self, model: nn.Module) -> list[nn.Parameter]:
        """Swap; returns the parameters that now have per-example gradients."""
        self._modules = trained_linears(model)
        names = {module: name for name, module in model.named_modules()}
        for module in self._modules:
            module.__class__ = ExpandedLinear
            module.__dict__ |= {"recorder": self._recorder, "called": names[module]}
        return [p for module in self._modules for p in module.parameters(recurse=False) if p.requires_grad]

    def detach(self) -> None:
        for module in self._modules:
            module.__class__ = nn.Linear
            module.__dict__.pop("recorder", None)
            module.__dict__.pop("called", None)
        self._modules = []

    def begin(self, batch: int) -> None:
        self._recorder.begin(batch)

    def end(self) -> dict[Tensor, Gradients]:
        return self._recorder.end()
