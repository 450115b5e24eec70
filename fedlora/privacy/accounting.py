"""ε of everything that was done to one dataset, composed at once.

Privacy loss distributions (Meiser and Mohammadi 2018; Koskela et al. 2020; Google's dp-accounting) give an upper bound
that is tight. They need memory that grows with the loss, so Rényi DP (Mironov 2017; Mironov, Talwar and Zhang 2019)
is asked first, and answers alone where its ε is 50 or more (nobody needs the second digit there), and for more steps or
mechanisms than a distribution is composed for in seconds: no task can keep a site computing.

Adjacency everywhere: add or remove one example (one client, for `ClientLevel`). Replacing one costs up to
twice as much.
Gaussian DP is not offered: its central limit understates ε.

Guarantee: `epsilon` is an upper bound on the true ε at δ for the composition of the events, in any order, each allowed
to see what the others released; splitting an event into several with the same total of steps changes nothing. Their
parameters must have been fixed beforehand: where what was released chooses them, `filtered_epsilon` is the bound.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

ADJACENCY: Final = "add-or-remove-one"
DISCRETISATION: Final = 1e-3
FINE: Final = 1e-5
FINE_BELOW: Final = 0.1
"""Where ε is smaller, a grid of DISCRETISATION is too coarse: 0.053 for 0.010 (q 0.01, σ 240, 10,000 steps)."""
FINE_FROM_SIGMA: Final = 4.0
"""Losses under less noise reach so far that a fine grid has too many points."""
RDP_ONLY_FROM: Final = 50.0
MOST_STEPS: Final = 1_000_000
MOST_MECHANISMS: Final = 64
WHOLE_ORDERS: Final = (*range(2, 33), 40, 48, 64, 128, 256)
"""Rényi orders for which subsampling has a short closed form: enough to say whether ε is below 50, in milliseconds."""


class SampledGaussian(Protocol):
    """What is priced: `steps` Gaussians of relative size σ, each on a Poisson sample of rate q."""

    @property
    def rate(self) -> float: ...
    @property
    def noise_multiplier(self) -> float: ...
    @property
    def steps(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Event:
    """Example-level: `steps` private steps on one dataset."""

    rate: float
    noise_multiplier: float
    steps: int


@dataclass(frozen=True, kw_only=True)
class ClientLevel:
    """Client-level: `rounds` sums of whole updates, clipped to S, with noise of standard deviation z · S.

    `rate` is 1 unless clients are sampled at random *and* the sampling is hidden from whoever is feared: a coordinator
    that chooses the clients sees who takes part, so against it there is no amplification.
    """

    noise_multiplier: float
    rounds: int
    rate: float = 1.0

    @property
    def steps(self) -> int:
        return self.rounds


def epsilon(events: Iterable[Event], *, delta: float) -> float:
    """Example-level ε at δ of all events together; 0 for none, inf if unbounded."""
    return _epsilon(_grouped(events), delta)


def filtered_epsilon(events: Iterable[SampledGaussian], *, delta: float, order: float) -> float:
    """ε at δ of mechanisms whose σ was chosen along the way, by what others before had released; looser than `epsilon`.

    A Rényi filter at one order, which has to be fixed beforehand (`calibration.filter_order`; Feldman and Zrnic,
    Individual Privacy Accounting via a Rényi Filter, arXiv 2008.11193). A bound that holds for parameters fixed in
    advance is not known to hold when they are not.
    """
    return _rdp(_grouped(events), delta, orders=(order,))


def best_order(
    plan: Iterable[SampledGaussian], *, delta: float, orders: Sequence[float] | None = WHOLE_ORDERS
) -> float:
    """The Rényi order at which what is planned costs least, of these or (None) of dp-accounting's own."""
    return float(_renyi(orders).compose(_composed(_grouped(plan))).get_epsilon_and_optimal_order(delta)[1])


def client_level_epsilon(events: Iterable[ClientLevel], *, delta: float) -> float:
    """Client-level ε at δ: another unit, never to be added to or compared with `epsilon`."""
    return _epsilon(_grouped(events), delta)


def rdp_epsilon(events: Iterable[SampledGaussian], *, delta: float) -> float:
    """The looser bound, by Rényi DP over dp-accounting's own orders."""
    return _rdp(_grouped(events), delta, orders=None)


def quick_epsilon(events: Iterable[SampledGaussian], *, delta: float) -> float:
    """A still looser bound in milliseconds: Rényi DP over whole orders."""
    return _rdp(_grouped(events), delta, orders=WHOLE_ORDERS)


Grouped = tuple[tuple[float, float, int], ...]


def _grouped(events: Iterable[SampledGaussian]) -> Grouped:
    """(q, σ, steps) with the steps of equal mechanisms added: the order and the cuts do not matter."""
    steps: Counter[tuple[float, float]] = Counter()
    for event in events:
        steps[event.rate, event.noise_multiplier] += event.steps
    return tuple((rate, sigma, count) for (rate, sigma), count in sorted(steps.items()) if count)


def _google() -> Any:
    """dp-accounting, which brings half a second of SciPy: it is imported where there is something to compose."""
    import dp_accounting

    return dp_accounting


def _composed(grouped: Grouped) -> Any:
    dp = _google()
    return dp.ComposedDpEvent(
        [
            dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(sigma)), count)
            for rate, sigma, count in grouped
        ]
    )


def _renyi(orders: Sequence[float] | None) -> Any:
    dp = _google()
    return dp.rdp.RdpAccountant(orders, neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)


def _rdp(grouped: Grouped, delta: float, *, orders: Sequence[float] | None) -> float:
    if not grouped:
        return 0.0
    accountant = _renyi(orders)
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)  # orders that do not converge are left out, which is safe, and said at length
    try:
        return float(accountant.compose(_composed(grouped)).get_epsilon(delta))
    finally:
        absl.setLevel(level)


@lru_cache(maxsize=4096)
def _epsilon(grouped: Grouped, delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), got {delta}; choose it below 1 / (number of examples).")
    quick = _rdp(grouped, delta, orders=WHOLE_ORDERS)
    long = sum(steps for _, _, steps in grouped) > MOST_STEPS or len(grouped) > MOST_MECHANISMS
    if long or not quick < RDP_ONLY_FROM:
        best = min(quick, _rdp(grouped, delta, orders=None))
        return math.inf if math.isnan(best) else best
    if not grouped:
        return 0.0
    best = min(quick, _pld(grouped, delta, interval=DISCRETISATION))
    if best < FINE_BELOW:
        best = min(best, _rdp(grouped, delta, orders=None))
        if all(sigma >= FINE_FROM_SIGMA for _, sigma, _ in grouped):
            best = min(best, _pld(grouped, delta, interval=FINE))
    return best


def _pld(grouped: Grouped, delta: float, *, interval: float) -> float:
    """As dp-accounting's `PLDAccountant` composes them; one step of each mechanism is computed once."""
    whole = _google().pld.privacy_loss_distribution.identity(value_discretization_interval=interval)
    step = (
        _one_step if interval == DISCRETISATION else _one_step.__wrapped__
    )  # a fine one has a hundred times more points
    for rate, sigma, count in grouped:
        if rate > 0:
            whole = whole.compose(step(rate, sigma, interval).self_compose(count))
    return float(whole.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _one_step(rate: float, sigma: float, interval: float) -> Any:
    """Its privacy loss distribution: nine tenths of the time that a composition takes."""
    dp = _google()
    return dp.pld.privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=sigma, value_discretization_interval=interval, sampling_prob=rate,
        neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )  # fmt: skip
