"""A dataset's spending, before and after one more task: the ledger's charges, composed together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.privacy.accounting import Event, best_order, epsilon, filtered_epsilon
from fedlora.privacy.calibration import filter_order
from fedlora.privacy.carried import Spent, event_of, spent_of
from fedlora.privacy.chain import Entry
from fedlora.privacy.ledger import Ledger
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.policy import DatasetPolicy
from fedlora.protocol.task import Task


class Spending:
    """What the dataset would have spent after this task: the ledger so far, and the task, composed at once."""

    def __init__(self, ledger: Ledger, task: Task, mechanism: Mechanism, *, order: float) -> None:
        charges = [entry.fields for entry in ledger.entries if entry.kind == "charge"]
        of_run = [fields for fields in charges if fields["run"] == task.run]
        now = Event(rate=mechanism.rate, noise_multiplier=mechanism.noise_multiplier, steps=mechanism.steps)
        self._entries = tuple(ledger.entries)
        self._now = now
        self._run = [*map(event_of, of_run), now]
        self._order = order
        self._chosen_on_the_way = task.privacy.adapt is not None or len(set(self._run)) > 1
        self.before = spent_of(self._entries)
        """Spending before this task, including stated amounts."""
        self.participations = len(of_run)
        carried = (entry.fields["runs"] for entry in ledger.entries if entry.kind == "carried")
        self.began_elsewhere = any(task.run in runs for runs in carried)
        """Whether the run has charged these rows in another ledger: its ε and its rounds are counted there."""
        self.secure = task.privacy.insecure_seed is None and all(fields["secure"] for fields in of_run)

    def run_epsilon(self, delta: float) -> float:
        """By the filter where mechanisms were chosen along the way, by what earlier ones had released."""
        if self._chosen_on_the_way:
            return filtered_epsilon(self._run, delta=delta, order=self._order)
        return epsilon(self._run, delta=delta)

    def lifetime_epsilon(self, delta: float) -> float:
        """Of all charges, and of what is carried over from elsewhere."""
        return self._with_now(self._entries).epsilon(delta=delta)

    def epsilon_since(self, moment: float, delta: float) -> float:
        """ε of this task and of everything charged, or carried over, after `moment` (seconds since 1970, by the site's
        clock)."""
        return self._with_now(entry for entry in self._entries if entry.fields["time"] > moment).epsilon(delta=delta)

    def counted_at(self, bounds: DatasetPolicy, task: Task) -> float:
        """δ of the lifetime's ε: never above the site's. What the charges are composed at is at most the task's, so
        that a task can only make ε larger; a stated (ε, δ) that is carried has its δ beside that."""
        assert bounds.max_delta is not None
        return min(bounds.max_delta, task.privacy.delta + self.before.stated_delta)

    def _with_now(self, entries: Iterable[Entry]) -> Spent:
        before = spent_of(entries)
        return replace(before, events=(*before.events, self._now))


def order_of(entries: Iterable[Entry], task: Task, mechanism: Mechanism, *, target: float | None) -> float:
    """The Rényi order by which a run is priced whose mechanisms are chosen on the way: fixed at its first charge.

    A filter's order must not be chosen by what was released, so what later tasks say of rounds, steps or σ changes
    nothing. `mechanism` is what the run's plan asks for in each of its rounds.
    """
    for entry in entries:
        if entry.kind == "charge" and entry.fields["run"] == task.run and "filter_order" in entry.fields:
            return float(entry.fields["filter_order"])
    steps = task.rounds * task.train.counted_steps
    if target is not None:
        return filter_order(target, delta=task.privacy.delta, rate=mechanism.rate, steps=steps)
    planned = Event(rate=mechanism.rate, noise_multiplier=mechanism.noise_multiplier, steps=steps)
    return best_order([planned], delta=task.privacy.delta)


def charged_events(entries: Iterable[Entry], *, run: str) -> list[Event]:
    """The charges of a run so far."""
    return [event_of(entry.fields) for entry in entries if entry.kind == "charge" and entry.fields["run"] == run]
