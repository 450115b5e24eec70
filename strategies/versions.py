"""A base that moves (FedEx-LoRA, FLoRA), version by version: what is kept of the past, and what each recipient needs.

Version v + 1 is version v plus one low-rank residual. A site that holds version h needs Σ of the residuals after h, a
newcomer all of them. Single residuals are kept as long as together they have no more numbers than the matrices that
they change; older ones are merged into `past`, a stack of factors until the matrix itself is no larger. So

    kept <= 2 Σ m n         numbers, however many rounds
    sent <= Σ m n           to anybody

and merging costs nobody a longer download: to who holds a version so old that its step is merged, the residuals since
would be as long as the whole sum, which is what is sent then. (Unless many residuals have few directions between them:
a sum's rank is looked for where it is sent, and not once it is dense.)

Guarantee: `total` and every `missing` are sums of the very residuals that `moved` was given, in float64 once dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedlora.lowrank import Product, added, total_of
from strategies.base import State

Residual = Mapping[str, Product]


def moved(state: State, residual: Residual) -> State:
    """The base one version on; the oldest single residuals merged as far as they are too many."""
    residuals, past, merged = (*state.residuals, residual), state.past, state.merged
    most = sum(m * n for m, n in (layer.shape for layer in state.adapter.layers.values()))
    while sum(numbers(kept) for kept in residuals) > most:  # the newest alone never is: at most the matrices
        past, merged, residuals = with_added(past, residuals[0]), merged + 1, residuals[1:]
    return replace(state, residuals=residuals, past=past, merged=merged)


def missing(state: State, held_version: int | None) -> tuple[int, Residual]:
    """What brings a site to the newest version, and the version that it is to be added to: the site's own, or 0."""
    held = held_version or 0
    if held < state.merged or held > state.base_version:
        return 0, total(state)
    return held, total_of(newest(state, held))


def total(state: State) -> Residual:
    """Everything that was ever added to the base."""
    return total_of((state.past, *state.residuals) if state.merged else state.residuals)


def newest(state: State, since: int) -> tuple[Residual, ...]:
    """The single residuals after version `since`, which are kept for the newest versions only."""
    if since < state.merged:
        raise ValueError(
            f"residuals up to version {state.merged} are merged, but those after version {since} were requested"
        )
    return state.residuals[since - state.merged :]


def with_added(past: Residual, residual: Residual) -> Residual:
    """Their sum; nothing is factored here, because this is done every round and most sums are read by nobody."""
    both = {name: added([past[name], product]) for name, product in residual.items() if name in past}
    return {**past, **residual, **both}


def numbers(residual: Residual) -> int:
    return sum(product.numbers for product in residual.values())
