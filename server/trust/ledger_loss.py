"""`fedlora admin accept-new-ledger`: what a lost ledger may have counted, and the agreement that it is lost.

    confirmed    ε and δ of everything, by the ledger's newest receipt
    unconfirmed  tasks of all runs that were sent to the site and that no receipt covers
    total        what the site has to state: both in one composition, where the receipts that are held, and so many
                 more trainings like these tasks, are all that the newest receipt counts; otherwise ε and δ of both,
                 added up

Guarantee: the total is an upper bound on what the ledger counted for this and all other coordinators up to its newest
receipt, and for this one after it, under what `fedlora.privacy.unconfirmed` assumes of single runs. No task without a
receipt is taken for one that the newest receipt counts: it may be another coordinator's, or one that died.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlora.config import Recipe, load
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.carried import Spent
from fedlora.privacy.receipt import Receipt
from fedlora.privacy.terms import event_of
from fedlora.privacy.unconfirmed import dearest
from fedlora.settings import SettingsError
from server.gradient_recipe import FIRST_STEP, gradient_recipe
from server.record.new_ledgers import Accepted, accept
from server.record.receipts import held_in
from server.record.sent import FILE, SentTasks
from server.settings import ServerSettings
from server.store.spending import fingerprint_of
from server.trust.told import operator, tell


@dataclass(frozen=True)
class Unconfirmed:
    """Tasks of one run that were sent to the site and that no receipt covers."""

    tasks: int
    training: Event | None
    """What each costs at most; None where it is not known by itself."""
    epsilon: float
    """Of them all."""
    delta: float


@dataclass(frozen=True)
class Lost:
    """A ledger that its site has lost."""

    receipt: Receipt
    """The newest."""
    public_key: str
    unconfirmed: tuple[Unconfirmed, ...]
    epsilon: float
    """That the site has to state, at `delta`."""
    delta: float


def lost_ledger(settings: ServerSettings, site: str, dataset: str | None) -> Lost:
    """The site's ledger, as this coordinator knows it. SettingsError if none, or several, fit."""
    held = {
        ledger: kept
        for ledger, kept in held_in(settings.runs).items()
        if ledger[0] == site and kept.receipt is not None and dataset in (None, ledger[1])
    }
    if not held:
        of_it = site if dataset is None else f"{site} for the dataset {dataset}"
        raise SettingsError(f"there is no receipt of {of_it}: a new ledger is accepted without this command.")
    if len(held) > 1:
        names = ", ".join(sorted(name for _, name in held))
        raise SettingsError(
            f"{site} has several datasets: {names}. Name the dataset whose ledger is lost: --dataset NAME"
        )
    (kept,) = held.values()
    if kept.public_key is None or kept.receipt is None:
        raise SettingsError(
            f"the receipts of {site} are not signed: its ledger cannot be distinguished from another one."
        )
    runs = list(_private_runs(settings.runs))
    known = {kept.receipt.digest: kept.receipt}
    for _, sent in runs:
        of_ledger = (item.receipt for item in sent.returned if item.key == kept.public_key)
        known |= {r.digest: r for r in of_ledger if (r.client, r.dataset) == (site, kept.receipt.dataset)}
    newest = max(known.values(), key=lambda receipt: receipt.sequence)
    waiting = tuple(found for recipe, sent in runs if (found := _unconfirmed(recipe, sent, site)) is not None)
    most, delta = _total(newest, list(known.values()), waiting)
    if not math.isfinite(most):
        raise SettingsError(
            f"there is no upper bound on what {site} spent without a receipt: its data cannot be used for training "
            "any more."
        )
    return Lost(newest, kept.public_key, waiting, most, delta)


def to_carry(epsilon: float) -> float:
    """What the site has to state, in four figures behind the point, never less than this."""
    return math.ceil(epsilon * 1e4) / 1e4


def give_up(settings: ServerSettings, lost: Lost) -> None:
    """The agreement, and its event in the audit log."""
    agreed = Accepted(
        site=lost.receipt.client,
        dataset=lost.receipt.dataset,
        public_key=lost.public_key,
        epsilon=lost.epsilon,
        delta=lost.delta,
        sequence=lost.receipt.sequence,
        at=time.time(),
        who=operator(),
    )
    accept(settings.runs, agreed)
    tell(
        settings, "new-ledger-accepted", site=agreed.site, dataset=agreed.dataset, key=fingerprint_of(lost.public_key),
        epsilon=agreed.epsilon, delta=agreed.delta, sequence=agreed.sequence,
    )  # fmt: skip


def _private_runs(runs: Path) -> Iterator[tuple[Recipe, SentTasks]]:
    """Every private run that has sent something; SettingsError where one cannot be read: it may have cost something."""
    for folder in sorted(
        {path.parent for name in (FILE, "rounds.jsonl", FIRST_STEP) for path in runs.glob(f"*/{name}")}
    ):
        recipe = load(folder / "recipe.yaml")
        if not recipe.privacy.enabled:
            continue
        if (first := folder / FIRST_STEP).exists():
            yield gradient_recipe(recipe, width=1), SentTasks(first)
        yield recipe, SentTasks(folder)


def _unconfirmed(recipe: Recipe, sent: SentTasks, site: str) -> Unconfirmed | None:
    spent = sent.spent(recipe).get(site)
    if spent is None or spent.unconfirmed == 0:
        return None
    receipts = [item.receipt for item in sent.returned if item.receipt.client == site]
    delta = recipe.privacy.delta
    if not receipts or recipe.privacy.adapt is not None:
        return Unconfirmed(spent.unconfirmed, None, spent.epsilon, delta)
    training = dearest(receipts)
    return Unconfirmed(
        spent.unconfirmed, training, epsilon([event_of(training, spent.unconfirmed)], delta=delta), delta
    )


def _total(newest: Receipt, known: Sequence[Receipt], waiting: Sequence[Unconfirmed]) -> tuple[float, float]:
    """ε and δ of everything."""
    delta = newest.delta_lifetime
    seen = [event_of(receipt) for receipt in known]
    more = [item.training for item in waiting if item.training is not None for _ in range(item.tasks)]

    def after(count: int) -> float:
        """Of `count` trainings besides those that are seen: what the newest receipt may count, then what came later."""
        unseen = (*more, *more)[:count]
        return Spent((*seen, *unseen), newest.epsilon_stated, newest.delta_stated).epsilon(delta=delta)

    counts, counted = range(len(more) + 1), max(newest.epsilon_lifetime, after(0))  # an older copy was put back
    if not waiting:
        return counted, delta
    found = bisect.bisect_left(counts, counted * (1 - 1e-6), key=after)
    explained = found < len(counts) and math.isclose(after(found), counted, rel_tol=1e-6)
    if explained and all(item.training is not None for item in waiting):
        return max(counted, after(found + len(more))), delta
    return counted + sum(item.epsilon for item in waiting), delta + sum(item.delta for item in waiting)
