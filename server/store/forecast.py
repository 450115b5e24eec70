"""When a privacy budget runs out, if rounds go on as the last one.

`at_least` is a safe answer in milliseconds, by Rényi DP; `rounds_left` the site's own accounting, by privacy loss
distributions, which takes some tenths of a second; `counted` is its slow clear twin, for tests.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedlora.privacy.accounting import WHOLE_ORDERS, Event, epsilon

FARTHEST = 100_000
"""Largest number of rounds that is forecast."""

AGREES = 0.02
"""Relative tolerance: if the charges seen here compose to the site's own ε within it, they are all that the site has
charged."""

CORRECTIONS = 6
KEPT = 4096


@dataclass(frozen=True)
class Account:
    """Input of a forecast: one ledger."""

    charged: tuple[Event, ...]
    """All charges that this coordinator has seen."""
    spent: float
    """ε of everything that the site has charged, by the site."""
    budget: float
    delta: float
    next_round: Event
    """The charge of one more round."""
    unconfirmed: int = 0
    """Tasks that were sent and have no receipt: they may have been charged, and cost what a round costs."""


@lru_cache(maxsize=KEPT)
def at_least(account: Account) -> int | None:
    """Rounds that certainly still fit; None for FARTHEST or more."""
    charged = account.charged
    if quick(charged, delta=account.delta) < account.spent:  # otherwise a bound on all that was charged
        charged = _unseen(account, quick)
    return _less(_last(lambda count: _quickly(account, charged, count) <= account.budget), account.unconfirmed)


@lru_cache(maxsize=KEPT)
def quick_at_most(account: Account) -> float:
    """No less than `at_most`, in milliseconds."""
    if account.unconfirmed == 0:
        return account.spent
    charged = account.charged
    if quick(charged, delta=account.delta) < account.spent:
        charged = _unseen(account, quick)
    return max(account.spent, _quickly(account, charged, account.unconfirmed))


@dataclass(frozen=True)
class Forecast:
    """The exact answer."""

    rounds_left: int | None
    complete: bool
    """Whether what was seen explains what the site says that it has spent."""
    at_most: float
    """ε of everything that was charged, and of everything that was sent besides."""


_COMPUTED: OrderedDict[Account, Forecast] = OrderedDict()  # not lru_cache: a page asks whether an answer is there


def is_computed(account: Account) -> bool:
    """Whether `forecast_of` answers at once."""
    return account in _COMPUTED


def forecast_of(account: Account) -> Forecast:
    """`rounds_left`, `seen_all` and `at_most`, computed once."""
    if account not in _COMPUTED:
        _COMPUTED[account] = Forecast(rounds_left(account), seen_all(account), at_most(account))
        if len(_COMPUTED) > KEPT:
            _COMPUTED.popitem(last=False)
    return _COMPUTED[account]


def rounds_left(account: Account) -> int | None:
    """How many more rounds fit, None for FARTHEST or more.

    Where the site has charged more than was seen (for other coordinators, or for answers that were lost), what it has
    spent is put down to as many rounds like the next as give it.
    """
    sent, account = account.unconfirmed, replace(account, unconfirmed=0)
    charged = _charged(account)
    count = at_least(account)
    for _ in range(CORRECTIONS):
        if count is None:
            return None
        bound = _quickly(account, charged, count)
        if not 0 < bound < math.inf:
            return _less(count, sent)
        share = epsilon([*charged, _times(account.next_round, count)], delta=account.delta) / bound
        better = _last(lambda n, share=share: share * _quickly(account, charged, n) <= account.budget)  # type: ignore[misc]
        if better == count:
            break
        count = better
    return _less(count, sent)


def at_most(account: Account) -> float:
    """ε where every task that was sent, and that no receipt covers, has been charged."""
    if account.unconfirmed == 0:
        return account.spent
    more = _times(account.next_round, account.unconfirmed)
    return max(account.spent, epsilon([*_charged(account), more], delta=account.delta))


def quick(events: Iterable[Event], *, delta: float) -> float:
    """What `quick_epsilon` says, from Rényi divergences that are computed once for each mechanism."""
    total = np.zeros(len(WHOLE_ORDERS))
    for event in events:
        total += event.steps * _divergences(event.rate, event.noise_multiplier)
    from dp_accounting.rdp import compute_epsilon

    return float(compute_epsilon(WHOLE_ORDERS, total, delta)[0]) if total.any() else 0.0


@lru_cache(maxsize=KEPT)
def _divergences(rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Of one step, at each order."""
    import dp_accounting as dp

    accountant = dp.rdp.RdpAccountant(WHOLE_ORDERS, neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise_multiplier)))
    return np.asarray(accountant.rdp)


def seen_all(account: Account) -> bool:
    """Whether what was seen explains what the site says that it has spent."""
    ours = epsilon(account.charged, delta=account.delta)
    return math.isclose(ours, account.spent, rel_tol=AGREES, abs_tol=1e-3)


def counted(account: Account) -> int:
    """Round after round until one does not fit, from what was seen."""
    count = 0
    while epsilon([*account.charged, _times(account.next_round, count + 1)], delta=account.delta) <= account.budget:
        count += 1
    return count


def runs_out_at(count: int | None, *, receipts: int, first_at: float, last_at: float) -> float | None:
    """The date, at the pace of the `receipts` so far; None without a pace or an end."""
    if count is None or receipts < 2 or last_at <= first_at:
        return None
    return last_at + count * (last_at - first_at) / (receipts - 1)


def _charged(account: Account) -> tuple[Event, ...]:
    return account.charged if seen_all(account) else _unseen(account, epsilon)


def _less(count: int | None, sent: int) -> int | None:
    """What is left of so many rounds when what was sent has been charged; None is more than is worth counting."""
    return None if count is None else max(0, count - sent)


def _unseen(account: Account, price: Callable[..., float]) -> tuple[Event, ...]:
    one = account.next_round
    count = _last(lambda n: price([_times(one, n)], delta=account.delta) <= account.spent)
    return (_times(one, max(1, FARTHEST if count is None else count)),)


def _quickly(account: Account, charged: tuple[Event, ...], count: int) -> float:
    return quick([*charged, _times(account.next_round, count)], delta=account.delta)


def _times(event: Event, count: int) -> Event:
    return Event(rate=event.rate, noise_multiplier=event.noise_multiplier, steps=event.steps * count)


def _last(fits: Callable[[int], bool]) -> int | None:
    """The largest count that fits, 0 if not even one does; None if FARTHEST still fits. Fitting ends once, for good."""
    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high):
        if high >= FARTHEST:
            return None
        low, high = high, min(2 * high, FARTHEST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
