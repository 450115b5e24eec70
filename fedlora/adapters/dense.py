"""Modules that train whole beside the adapters: a classifier, for one. PEFT calls them modules_to_save."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from torch import nn

MARK = "_fedlora_dense"
ZERO = "_fedlora_zero"
PLACES = "_fedlora_places"


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
    return ((path, module) for path, module in places(model) if getattr(module, MARK, False))


def keep_places(model: nn.Module, also: Callable[[nn.Module], bool]) -> None:
    """Remember where the dense modules are, and those that `also` picks: of a model whose modules stay as they are from
    now on. A client's round took a dozen walks through all of them, more time than anything else in it."""
    kept = [(path, module) for path, module in model.named_modules() if getattr(module, MARK, False) or also(module)]
    model.__dict__[PLACES] = kept  # not by setattr: they are no modules of the model a second time


def places(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """What `keep_places` has found; all modules where it was not called."""
    kept: list[tuple[str, nn.Module]] | None = model.__dict__.get(PLACES)
    return model.named_modules() if kept is None else kept


def dense_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Their parameters under flat names: `<module path>/<parameter>`, such as head/weight."""
    return {
        f"{path}/{name}": parameter
        for path, module in dense_modules(model)
        for name, parameter in module.named_parameters()
    }
