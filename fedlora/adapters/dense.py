"""Modules that train whole beside the adapters: a classifier, for one. PEFT calls them modules_to_save."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import nn

MARK = "_fedlora_dense"
ZERO = "_fedlora_zero"


def mark_dense(model: nn.Module, names: Collection[str]) -> None:
    """The modules at these paths train whole, and no adapter is put into them."""
    for path, module in model.named_modules():
        if path in names:
            setattr(module, MARK, True)


def mark_zero(model: nn.Module, names: Collection[str]) -> None:
    """The dense modules at these paths start at zero (`fedlora.adapters.initial`)."""
    for path in names:
        setattr(model.get_submodule(path), ZERO, True)


def zero_modules(model: nn.Module) -> frozenset[str]:
    """The paths that `mark_zero` was given."""
    return frozenset(path for path, module in model.named_modules() if getattr(module, ZERO, False))


def dense_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Marked modules by path."""
    return ((path, module) for path, module in model.named_modules() if getattr(module, MARK, False))


def dense_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Their parameters under flat names: `<module path>/<parameter>`, such as head/weight."""
    return {
        f"{path}/{name}": parameter
        for path, module in dense_modules(model)
        for name, parameter in module.named_parameters()
    }
