"""What a run may have cost every site: by its receipts, and by the tasks sent to it that no receipt covers.

A site charges before it answers. An answer that is late, over a quota or lost with the quorum has been paid for all the
same, and so may a task have been whose site is not heard of any more. What is said of a run's ε therefore starts from
what was sent, and a receipt says less: its ε covers every charge of the run on that ledger up to its own entry.

    charged      by the newest receipt: the number of trainings whose ε at its q and σ is the receipt's `epsilon_run`
    unconfirmed  tasks sent without a receipt, less those that are among the charged, up to the participation cap
    ε            of charged + unconfirmed trainings at the newest receipt's q and σ, and never above the run's target

Where σ changed on the way (privacy.adapt, another size) the charged cannot be counted, and the bound is the target.
Where no receipt has come, nothing is known of the site's size: the target again, or without one σ at q = 1.

Guarantee: an upper bound on what the site's ledger holds for the run, as long as each task that was sent is charged at
most once and the site's size and policy stay as they were at its newest receipt.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fedlora.config import Recipe
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.terms import epsilon_at_most, mechanism_for, target_of


@dataclass(frozen=True)
class Sent:
    """A private task that goes out to a site."""

    site: str
    task: str
    """Digest of the task and of the state that goes with it: sent again, it is the same."""


@dataclass(frozen=True)
class Confirmed:
    """A receipt that came back for a task."""

    site: str
    task: str
    receipt: Receipt


@dataclass(frozen=True)
class SiteSpent:
    """What a run may have cost one site."""

    epsilon: float
    """At most, whatever has become of the tasks that were sent."""
    confirmed: float
    """By the newest receipt; 0 before the first."""
    unconfirmed: int
    """Tasks that were sent, that may have been charged, and that no receipt covers."""
    newest: Receipt | None
    """The receipt with the highest number; None before the first."""
    secure: bool


def spent_by_site(recipe: Recipe, sent: Iterable[Sent], confirmed: Iterable[Confirmed]) -> dict[str, SiteSpent]:
    """Every site that was sent a private task of one run, by name."""
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    receipts: dict[str, dict[str, Receipt]] = defaultdict(dict)
    for item in sent if recipe.privacy.enabled else ():
        tasks[item.site][item.task] += 1
    for answer in confirmed:
        receipts[answer.site][answer.task] = answer.receipt
    return {site: _spent(recipe, tasks[site], receipts[site]) for site in sorted(tasks.keys() | receipts.keys())}


def _spent(recipe: Recipe, tasks: Mapping[str, int], receipts: Mapping[str, Receipt]) -> SiteSpent:
    """One site; of several ledgers (a dataset that was renamed on the way) the one that may have cost most."""
    secure = recipe.privacy.insecure_seed is None and all(receipt.secure for receipt in receipts.values())
    waiting = sum(count for task, count in tasks.items() if task not in receipts)
    if not receipts:
        unheard = min(waiting, recipe.most_charges)
        return SiteSpent(_unheard(recipe, unheard), 0.0, unheard, None, secure)
    ledgers: dict[str, dict[str, Receipt]] = defaultdict(dict)
    for task, receipt in receipts.items():
        ledgers[receipt.dataset][task] = receipt
    found = [_of_ledger(recipe, tasks, ledger, waiting, secure=secure) for ledger in ledgers.values()]
    return max(found, key=lambda spent: spent.epsilon)


def _unheard(recipe: Recipe, trainings: int) -> float:
    """ε of a site of which nothing is known."""
    if trainings == 0:
        return 0.0
    if (target := target_of(recipe.privacy)) is not None:
        return target
    most = mechanism_for(recipe.privacy, recipe.train, size=1, most_charges=recipe.most_charges, target=None)
    return epsilon_at_most(recipe.privacy, most, trainings=trainings, target=None)


def _of_ledger(
    recipe: Recipe, tasks: Mapping[str, int], receipts: Mapping[str, Receipt], waiting: int, *, secure: bool
) -> SiteSpent:
    newest = max(receipts.values(), key=lambda receipt: receipt.sequence)
    entries = len({receipt.digest for receipt in receipts.values()})
    most = max(recipe.most_charges, entries)
    charged = charges_in(newest, recipe, least=entries, most=most) if waiting else entries
    answered = sum(tasks.get(task, 1) for task in receipts)
    unconfirmed = min(waiting, most - entries)
    if charged is not None:
        unconfirmed = max(0, min(waiting - max(0, charged - answered), most - charged))
    at_most = newest.epsilon_run
    if unconfirmed:
        at_most = max(at_most, _with_more(recipe, receipts.values(), newest, charged, unconfirmed))
    return SiteSpent(at_most, newest.epsilon_run, unconfirmed, newest, secure)


def _with_more(
    recipe: Recipe, receipts: Collection[Receipt], newest: Receipt, charged: int | None, unconfirmed: int
) -> float:
    target = target_of(recipe.privacy)
    if charged is not None:
        return epsilon_at_most(recipe.privacy, newest, trainings=charged + unconfirmed, target=target)
    if target is not None:
        return target
    dearest = newest.model_copy(
        update={
            "rate": max(receipt.rate for receipt in receipts),
            "noise_multiplier": min(receipt.noise_multiplier for receipt in receipts),
        }
    )
    return epsilon_at_most(recipe.privacy, dearest, trainings=recipe.most_charges, target=None)


def charges_in(receipt: Receipt, recipe: Recipe, *, least: int, most: int) -> int | None:
    """How many trainings the receipt's `epsilon_run` composes; None where they were not all alike."""
    if recipe.privacy.adapt is not None:
        return None

    def after(count: int) -> float:
        return epsilon_at_most(recipe.privacy, receipt, trainings=count, target=None)

    def is_it(count: int) -> bool:
        return math.isclose(after(count), receipt.epsilon_run, rel_tol=1e-6)

    if is_it(least):  # all that was charged was seen: nearly always
        return least
    counts = range(least, most + 1)
    found = bisect.bisect_left(counts, receipt.epsilon_run * (1 - 1e-6), key=after)
    return counts[found] if found < len(counts) and is_it(counts[found]) else None
