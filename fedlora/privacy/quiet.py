"""A model without randomness, as private steps need it: an example's gradient is then a function of that example alone.

Dropout draws its masks by place in the batch: one example more gives everybody else another mask, and the clipped sum
then moves by far more than C (2.3 C at 32 drawn, measured on the demo model). So nothing is dropped in private steps.

Every module is put in evaluation mode, which switches off dropout (modules and functional), attention dropout,
stochastic depth, router noise and masking, and makes batch normalisation use its frozen statistics. Two kinds stay in
train mode, because they do nothing else in it: plain linear layers (Opacus' hooks look at the flag), and layers that
recompute their activations (transformers checks the flag); in those every dropping probability is zero meanwhile, and
no cache of keys and values is kept, which a second forward would append to.

What this does not know of is found by trial: see `rehearsal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from fedlora.privacy.linears import ExpandedLinear
from fedlora.privacy.refusal import Code, Refusal

CHANCES = ("drop", "jitter", "noise")
"""Parts of the names that transformers gives to probabilities and widths used for random draws in training."""


@contextmanager
def without_randomness(model: nn.Module) -> Iterator[None]:
    """Nothing in `model` draws, and no statistics run, until the end; modes and settings then come back."""
    modes = [(module, module.training) for module in model.modules()]
    recomputing = checkpointing(model)
    settings = [found for module in recomputing for found in _chances(module)]
    settings += [found for module in model.modules() if recomputing for found in _caches(module)]
    try:
        model.eval()
        for module in model.modules():
            module.training = _may_train(module, recomputing)
        for owner, name, value in settings:
            setattr(owner, name, type(value)(0))
        yield
    finally:
        for owner, name, value in settings:
            setattr(owner, name, value)
        for module, training in modes:
            module.training = training


def require_quiet(model: nn.Module) -> None:
    """Refuse a model that was put back in train mode."""
    recomputing = checkpointing(model)
    for name, module in model.named_modules():
        if module.training and not _may_train(module, recomputing):
            raise Refusal(
                Code.UNSUPPORTED_MODEL,
                f"{name or type(module).__name__} is in training mode, in which it may draw random numbers or "
                "mix examples; do not change the modes that the engine sets.",
            )


def checkpointing(model: nn.Module) -> set[nn.Module]:
    """The modules that must be in train mode for their activations to be recomputed."""
    flagged = {module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True}
    layers = {module for module in flagged if isinstance(module, GradientCheckpointingLayer)}
    return layers or flagged


def _may_train(module: nn.Module, recomputing: set[nn.Module]) -> bool:
    return type(module) in (nn.Linear, ExpandedLinear) or module in recomputing


def _caches(module: nn.Module) -> Iterator[tuple[object, str, float | bool]]:
    """A config that asks for a cache."""
    config = getattr(module, "config", None)
    if getattr(config, "use_cache", False) is True:
        yield config, "use_cache", True


def _chances(module: nn.Module) -> Iterator[tuple[object, str, float | bool]]:
    """(owner, name, value) of every probability above zero that the module reads, its own or its config's."""
    for owner in (module, getattr(module, "config", None)):
        for name, value in list(vars(owner).items()) if owner is not None else ():
            if isinstance(value, float) and value > 0 and any(part in name for part in CHANCES):
                yield owner, name, value
