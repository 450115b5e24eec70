"""The weighted mean that every strategy starts from: one pass, float64, memory independent of the number of clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedlora.lowrank import Product, Sum, product_of
from fedlora.updates import Adapter, Update
from strategies.base import Combined, Weighting


def weighted_mean(updates: Iterable[Update], weighting: Weighting) -> Combined:
    """Mean of every factor and Σ w_k s_k B_k A_k, w_k normalised over the participants. No update is a ValueError."""
    products = Sum()
    mean, clients, total = _mean(updates, weighting, products.add)
    products.divide(dict.fromkeys(products, total))
    return Combined(mean, products, clients, total)


def factor_mean(updates: Iterable[Update], weighting: Weighting) -> Combined:
    """The same with the product of the means for Σ w_k s_k B_k A_k, so that nothing has to be stacked.

    Where clients share A or B (FFA-LoRA, FedSVD, Fed-SB) it is that sum. Elsewhere it is not, and `measured` is to say
    so.
    """
    mean, clients, total = _mean(updates, weighting, lambda adapter, weight: None)
    return Combined(mean, {name: product_of(layer) for name, layer in mean.layers.items()}, clients, total)


def _mean(
    updates: Iterable[Update], weighting: Weighting, also: Callable[[Adapter, float], None]
) -> tuple[Adapter, int, float]:
    """The mean of every factor, the number of updates and their weight together; `also` sees every update once."""
    sums: dict[str, Tensor] = {}
    unchanged: dict[str, float] = {}
    template: Adapter | None = None
    first: dict[str, Tensor] = {}
    clients, total = 0, 0.0
    for update in updates:
        weight = weight_of(update, weighting)
        if not 0 < weight < float("inf"):
            raise ValueError(f"the weight of {update.client} is {weight}; it must be positive and finite.")
        first = first or update.adapter.tensors()
        for name, tensor in update.adapter.tensors().items():
            if tensor is first[name]:  # a factor that nobody trains is one object for all: nothing to add up
                unchanged[name] = unchanged.get(name, 0.0) + weight
            elif name in sums:
                sums[name].add_(tensor, alpha=weight)
            else:
                sums[name] = tensor.double() * weight
        also(update.adapter, weight)
        template = template or update.adapter
        clients, total = clients + 1, total + weight
    if template is None:
        raise ValueError("there is no update to combine")
    means = {name: tensor.double() for name, tensor in first.items() if name not in sums}
    for name, tensor in sums.items():
        means[name] = tensor.add_(first[name], alpha=unchanged[name]).div_(total)
    return template.with_tensors(means), clients, total


def weight_of(update: Update, weighting: Weighting) -> float:
    """What an update counts: as it says (its examples, or their learnt tokens), or as much as every other."""
    return 1.0 if weighting == "uniform" else update.weight


def in_dtype_of(state: Adapter, mean: Adapter) -> Adapter:
    """The float64 mean in the state's own precision."""
    own = state.tensors()
    return mean.with_tensors({name: tensor.to(own[name].dtype) for name, tensor in mean.tensors().items()})


def zero_product(product: Product) -> bool:
    """Whether a product is exactly zero: untrained layers, which no factorisation should touch."""
    return product.rank == 0 or not (some(product.U_mp) and some(product.V_pn))


def some(matrix: Tensor) -> bool:
    """Whether any entry is not zero; checks the first entry first, which usually decides."""
    return bool(matrix[0, 0]) or bool(torch.any(matrix))
