"""The local optimiser, and its state as plain tensors under `<kind>/<flat name of the parameter>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedlora.adapters.dense import dense_parameters
from fedlora.config import TrainSettings
from fedlora.plugins.optimizers import plug_in_optimizer

KINDS: Mapping[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}
"""What each remembers of a parameter. AdamW's `step` is a number, the others have the parameter's shape. Of another
optimiser nothing is known, and nothing kept."""


def make_optimizer(
    model: nn.Module, parameters: Sequence[nn.Parameter], settings: TrainSettings
) -> torch.optim.Optimizer:
    """The local optimiser; what trains whole has its own learning rate where one is set."""
    dense = {id(parameter) for parameter in dense_parameters(model).values()}
    groups = [
        {"params": [p for p in parameters if id(p) not in dense], "lr": settings.lr},
        {"params": [p for p in parameters if id(p) in dense], "lr": settings.head_lr or settings.lr},
    ]
    used = [group for group in groups if group["params"]]
    fused = True if all(parameter.is_cuda for parameter in parameters) else None  # None: as torch chooses
    if settings.has_own_optimizer:
        return plug_in_optimizer(used, settings)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(used, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.SGD(used, lr=settings.lr, momentum=settings.momentum, fused=fused)


def state_of(optimizer: torch.optim.Optimizer, live: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A copy on the CPU of what the optimiser remembers; empty where it remembers nothing."""
    return {
        f"{kind}/{name}": optimizer.state[parameter][kind].detach().to("cpu", copy=True)
        for name, parameter in live.items()
        for kind in KINDS.get(type(optimizer), ())
        if optimizer.state.get(parameter, {}).get(kind) is not None
    }


def with_state(
    optimizer: torch.optim.Optimizer, live: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> torch.optim.Optimizer:
    """The optimiser, going on from `state`: afresh for a parameter of which not all is there, or of another shape."""
    for name, parameter in live.items():
        found = {kind: state.get(f"{kind}/{name}") for kind in KINDS.get(type(optimizer), ())}
        if found and all(_fits(kind, tensor, parameter) for kind, tensor in found.items()):
            optimizer.state[parameter] = {
                kind: counted_on(tensor, optimizer, parameter) if kind == "step" else tensor.to(parameter, copy=True)
                for kind, tensor in found.items()
                if tensor is not None
            }
    return optimizer


def counted_on(step: Tensor, optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    """A fused optimiser counts its steps where the parameter is, any other on the CPU."""
    return step.to(parameter.device if optimizer.defaults.get("fused") else "cpu", copy=True)


def _fits(kind: str, tensor: Tensor | None, parameter: nn.Parameter) -> bool:
    return tensor is not None and tensor.shape == (torch.Size() if kind == "step" else parameter.shape)
