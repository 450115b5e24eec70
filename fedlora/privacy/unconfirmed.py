"""Upper bounds on what a run has cost every site, from its receipts and from the tasks that were sent without a
receipt.

A site charges before it answers. An answer that is late, over a quota or lost with the quorum has been paid for all the
same, and so may a task have been whose site is not heard of any more. What is said of a run's ε therefore starts from
what was sent, and a receipt says less: its ε covers every charge of the run on that ledger up to its own entry.

    charged      by the newest receipt: the number of trainings whose ε at its q and σ is the receipt's `epsilon_run`
    unconfirmed  tasks sent without a receipt, less those that are among the charged, up to the participation cap
    ε            of charged + unconfirmed trainings at the newest receipt's q and σ, and never above the run's target

Where σ changed on the way (privacy.adapt, another size) the charged cannot be counted, and the bound is the target.
Where no receipt has come, nothing is known of the site's size: the target again, or without one σ at q = 1.

A ledger is a dataset's and a key's, and its numbers rise. Receipts of several (a disk was lost, a dataset renamed, an
older copy put back) mean that each knows nothing of what the others charged, and each by itself may reach the target:

    ε            of every receipt's charge, and of every sending that brought none at the largest q and smallest σ seen,
                 in one composition; under privacy.adapt the target, once for each ledger (Rényi filters of one order
                 add), and no bound where they had other sizes, and with them other orders

Guarantee: an upper bound on what the site's ledgers hold for the run together, as long as each task that was sent is
charged at most once, the site's size and policy stay as its receipts say, and of every ledger that was charged, where
there were several, one receipt came.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedlora.config import Recipe
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.terms import epsilon_at_most, event_of, mechanism_for, target_of


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
    key: str | None = None
    """The key that signed it."""


LedgerName = tuple[str, str | None, int]
"""Dataset, key, and how often its numbers went back before."""


@dataclass(frozen=True)
class SiteSpent:
    """The most that a run may have cost one site."""

    epsilon: float
    """Upper bound, whatever happened to the tasks that were sent."""
    confirmed: float
    """Confirmed by the newest receipt, or with several ledgers by all receipts; 0 before the first."""
    unconfirmed: int
    """Tasks that were sent, that may have been charged, and that no receipt covers."""
    newest: Receipt | None
    """The receipt with the highest number, of the last ledger; None before the first."""
    secure: bool
    ledgers: frozenset[LedgerName] = frozenset()
    """The keys of the receipts that came."""


def spent_by_site(recipe: Recipe, sent: Iterable[Sent], confirmed: Iterable[Confirmed]) -> dict[str, SiteSpent]:
    """Every site that was sent a private task of one run, by name."""
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    answers: dict[str, list[Confirmed]] = defaultdict(list)
    for item in sent if recipe.privacy.enabled else ():
        tasks[item.site][item.task] += 1
    for answer in confirmed:
        answers[answer.site].append(answer)
    return {site: _spent(recipe, tasks[site], answers[site]) for site in sorted(tasks.keys() | answers.keys())}


def _spent(recipe: Recipe, tasks: Mapping[str, int], answers: Sequence[Confirmed]) -> SiteSpent:
    """One site, whose answers are in the order in which they came."""
    secure = recipe.privacy.insecure_seed is None and all(answer.receipt.secure for answer in answers)
    if not answers:
        unheard = min(sum(tasks.values()), recipe.most_charges)
        return SiteSpent(_unheard(recipe, unheard), 0.0, unheard, None, secure)
    ledgers = _by_ledger(answers)
    if len(ledgers) > 1:
        back = Counter(answer.task for answer in answers)
        waiting = sum(max(0, count - back[task]) for task, count in tasks.items())
        found = _of_several(recipe, list(ledgers.values()), waiting, secure=secure)
    else:
        (receipts,) = ledgers.values()
        waiting = sum(count for task, count in tasks.items() if task not in receipts)
        found = _of_ledger(recipe, tasks, receipts, waiting, secure=secure)
    return replace(found, ledgers=frozenset(ledgers))


def _by_ledger(answers: Iterable[Confirmed]) -> dict[LedgerName, dict[str, Receipt]]:
    """Receipts by task. One that came before is a retried task's; a number that goes back is another ledger's."""
    found: dict[LedgerName, dict[str, Receipt]] = {}
    newest: dict[tuple[str, str | None], tuple[int, int]] = {}
    seen: set[str] = set()
    for answer in answers:
        receipt, name = answer.receipt, (answer.receipt.dataset, answer.key)
        if receipt.digest in seen:
            continue
        seen.add(receipt.digest)
        turn, last = newest.get(name, (0, 0))
        turn += receipt.sequence <= last
        newest[name] = turn, receipt.sequence
        found.setdefault((*name, turn), {})[answer.task] = receipt
    return found


def _of_several(recipe: Recipe, ledgers: Sequence[Mapping[str, Receipt]], waiting: int, *, secure: bool) -> SiteSpent:
    receipts = [receipt for ledger in ledgers for receipt in ledger.values()]
    newest = max(ledgers[-1].values(), key=lambda receipt: receipt.sequence)
    target = target_of(recipe.privacy)
    if recipe.privacy.adapt is not None and target is not None:
        confirmed = sum(max(receipt.epsilon_run for receipt in ledger.values()) for ledger in ledgers)
        one_order = len({receipt.rate for receipt in receipts}) == 1
        return SiteSpent(len(ledgers) * target if one_order else math.inf, confirmed, waiting, newest, secure)
    known = [event_of(receipt) for receipt in receipts]
    unknown = event_of(dearest(receipts), waiting)
    least = max(receipt.epsilon_run for receipt in receipts)
    confirmed = max(least, epsilon(known, delta=recipe.privacy.delta))
    at_most = max(confirmed, epsilon([*known, unknown], delta=recipe.privacy.delta))
    return SiteSpent(at_most, confirmed, waiting, newest, secure)


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
    again = sum(max(0, tasks.get(task, 1) - 1) for task, receipt in receipts.items() if receipt.digest == newest.digest)
    waiting += again  # two processes may have charged for one task, and the later charge has no receipt
    most = max(recipe.most_charges, entries)
    charged = charges_in(newest, recipe, least=entries, most=most) if waiting else entries
    answered = sum(tasks.get(task, 1) for task in receipts) - again
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
    return epsilon_at_most(recipe.privacy, dearest(receipts), trainings=recipe.most_charges, target=None)


def dearest(receipts: Collection[Receipt]) -> Event:
    """A training at the largest q and the smallest σ among them."""
    return Event(
        rate=max(receipt.rate for receipt in receipts),
        noise_multiplier=min(receipt.noise_multiplier for receipt in receipts),
        steps=max(receipt.steps for receipt in receipts),
    )


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
