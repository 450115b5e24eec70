"""σ for one client from a target ε: the smallest noise whose whole allowed participation stays within it.

Calibrated for the largest number of rounds in which a client may be called, not for the expected one: FedSVD's released
code uses the expected one, and its "ε = 6" is 8.0 for a client that attended 50 rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from scipy.optimize import brentq

from fedlora.privacy.accounting import (
    FINE_BELOW,
    WHOLE_ORDERS,
    Event,
    best_order,
    epsilon,
    filtered_epsilon,
    quick_epsilon,
    rdp_epsilon,
)

SMALLEST_SIGMA: Final = 0.1
LARGEST_SIGMA: Final = 1e6
_DIGITS: Final = 4


class UnreachableError(ValueError):
    """No σ up to `LARGEST_SIGMA` meets the target."""


@lru_cache(maxsize=1024)
def noise_multiplier_for(target_epsilon: float, *, delta: float, rate: float, steps: int) -> float:
    """The smallest σ with four significant digits for which `steps` steps at `rate` cost at most `target_epsilon`.

    Guarantee: epsilon([Event(rate, σ, steps)], delta) <= target_epsilon. UnreachableError where no σ does it.
    """
    high = _enough(target_epsilon, rate, steps, delta)
    low = high
    while low > SMALLEST_SIGMA and _tight(low, rate, steps, delta) <= target_epsilon:
        low, high = max(low / 1.5, SMALLEST_SIGMA), low
    return _rounded_up(_between(low, high, lambda sigma: _tight(sigma, rate, steps, delta) - target_epsilon))


def _enough(target_epsilon: float, rate: float, steps: int, delta: float) -> float:
    """A σ that meets the target: by the quick bound as far as that reaches, then by the exact one. UnreachableError
    where none does."""
    coarse = max(FINE_BELOW, 2 * _quick(LARGEST_SIGMA, rate, steps, delta))  # the quick bound says little below
    high, until = SMALLEST_SIGMA, max(target_epsilon, coarse)
    while (found := _quick(high, rate, steps, delta)) > until and high <= LARGEST_SIGMA:
        high *= 2.0 if found > 4 * until else 1.25
    while target_epsilon < coarse and high <= LARGEST_SIGMA and _tight(high, rate, steps, delta) > target_epsilon:
        high *= 2.0
    if high > LARGEST_SIGMA:
        raise UnreachableError(
            f"epsilon {target_epsilon} at delta {delta} cannot be met by {steps} steps at rate {rate}: that needs "
            f"a noise multiplier above {LARGEST_SIGMA:g}; ask for fewer rounds or steps, or a larger epsilon."
        )
    return high


@lru_cache(maxsize=1024)
def filter_order(target_epsilon: float, *, delta: float, rate: float, steps: int) -> float:
    """The Rényi order at which a run of so many steps meets its target with least noise: the plan alone fixes it."""
    fine = target_epsilon < FINE_BELOW  # whole orders are too few for so little
    price, orders = (rdp_epsilon, None) if fine else (quick_epsilon, WHOLE_ORDERS)

    def plan(sigma: float) -> list[Event]:
        return [Event(rate=rate, noise_multiplier=sigma, steps=steps)]

    sigma = _smallest(lambda sigma: price(plan(sigma), delta=delta) <= target_epsilon)
    return best_order(plan(sigma), delta=delta, orders=orders)


def noise_for_the_rest(
    target_epsilon: float, spent: Sequence[Event], *, delta: float, rate: float, steps: int, order: float
) -> float:
    """The smallest σ for which `steps` more steps keep a run within its target that has spent so much, by the filter.

    `LARGEST_SIGMA` where none does: the budget's own check then refuses.
    """

    def fits(sigma: float) -> bool:
        more = Event(rate=rate, noise_multiplier=sigma, steps=steps)
        return filtered_epsilon([*spent, more], delta=delta, order=order) <= target_epsilon

    return _rounded_up(_smallest(fits))


def _smallest(enough: Callable[[float], bool]) -> float:
    """A σ within 0.01 % above the smallest that is enough; `LARGEST_SIGMA` where none is."""
    low, high = SMALLEST_SIGMA, LARGEST_SIGMA
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _between(low: float, high: float, excess: Callable[[float], float]) -> float:
    """A σ within 0.02 % above the root of a falling `excess`; `low` where even that is enough."""
    if excess(low) <= 0:
        return low
    root = math.exp(brentq(lambda log_sigma: excess(math.exp(log_sigma)), math.log(low), math.log(high), xtol=1e-4))
    while excess(root) > 0:
        root *= 1 + 1e-4
    return root


def _tight(sigma: float, rate: float, steps: int, delta: float) -> float:
    return epsilon([Event(rate=rate, noise_multiplier=sigma, steps=steps)], delta=delta)


def _quick(sigma: float, rate: float, steps: int, delta: float) -> float:
    return quick_epsilon([Event(rate=rate, noise_multiplier=sigma, steps=steps)], delta=delta)


def _rounded_up(value: float) -> float:
    """Four significant digits, never smaller.

    >>> _rounded_up(0.612345), _rounded_up(12.0), _rounded_up(1234.5)
    (0.6124, 12.0, 1235.0)
    """
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    return math.ceil(value * scale - 1e-9) / scale


_LADDER: Final = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


def public_size(examples: int) -> int:
    """The largest step of a coarse public ladder that is at most `examples`: what may be said about n_k.

    q, b and the weight of an update come from it. It tells the order of magnitude of a dataset, a named leak; a site
    that wants none of it writes `public_examples` in its policy.

    >>> [public_size(n) for n in (1, 9, 515, 2219, 2948, 3763)]
    [1, 8, 500, 2000, 2500, 3000]
    """
    return max(step for step in _steps(examples) if step <= examples)


def size_bound(examples: int) -> int:
    """The next step of that ladder: more than `examples`, and no more telling than `public_size`.

    >>> [size_bound(n) for n in (1, 9, 515, 2219)]
    [2, 10, 600, 2500]
    """
    return min(step for step in _steps(examples) if step > examples)


def _steps(examples: int) -> list[int]:
    """The ladder around `examples`."""
    if examples < 1:
        raise ValueError(f"examples must be >= 1, got {examples}.")
    decade = 10 ** math.floor(math.log10(examples))
    steps = {int(step * scale) for scale in (decade // 10, decade, 10 * decade) for step in _LADDER}
    return sorted(step for step in steps if step >= 1)
