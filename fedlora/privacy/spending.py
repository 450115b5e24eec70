"""What a dataset has spent and would have spent after one more task: the ledger's charges, composed at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from fedlora.privacy.accounting import Event, epsilon, filtered_epsilon
from fedlora.privacy.calibration import filter_order
from fedlora.privacy.carried import event_of, spent_of
from fedlora.privacy.chain import Entry
from fedlora.privacy.ledger import Ledger
from fedlora.privacy.mechanism import Mechanism
from fedlora.privacy.policy import DatasetPolicy
from fedlora.task import Task


class Spending:
    """What the dataset would have spent after this task: the ledger so far, and the task, composed at once."""

    def __init__(self, ledger: Ledger, task: Task, mechanism: Mechanism, target: float | None) -> None:
        charges = [entry.fields for entry in ledger.entries if entry.kind == "charge"]
        of_run = [fields for fields in charges if fields["run"] == task.run]
        now = Event(rate=mechanism.rate, noise_multiplier=mechanism.noise_multiplier, steps=mechanism.steps)
        before = spent_of(ledger.entries)
        self._lifetime = replace(before, events=(*before.events, now))
        self._run = [*map(event_of, of_run), now]
        chosen_on_the_way = task.privacy.adapt is not None or len({(e.rate, e.noise_multiplier) for e in self._run}) > 1
        self._filter_order = None
        if chosen_on_the_way and target is not None:
            self._filter_order = order_of(task, target, mechanism.rate)
        self.participations = len(of_run)
        self.secure = task.privacy.insecure_seed is None and all(fields["secure"] for fields in of_run)

    def run_epsilon(self, delta: float) -> float:
        """By the filter where σ was chosen along the way."""
        if self._filter_order is not None:
            return filtered_epsilon(self._run, delta=delta, order=self._filter_order)
        return epsilon(self._run, delta=delta)

    def lifetime_epsilon(self, delta: float) -> float:
        """Of all charges, and of what is carried over from elsewhere."""
        return self._lifetime.epsilon(delta=delta)

    def counted_at(self, bounds: DatasetPolicy, task: Task) -> float:
        """δ of the lifetime's ε: never above the site's. What the charges are composed at is at most the task's, so
        that a task can only make ε larger; a stated (ε, δ) that is carried has its δ beside that."""
        assert bounds.largest_delta is not None
        return min(bounds.largest_delta, task.privacy.delta + self._lifetime.stated_delta)


def order_of(task: Task, target: float, rate: float) -> float:
    """The filter's order: that of the whole run, the same in all its rounds."""
    return filter_order(target, delta=task.privacy.delta, rate=rate, steps=task.rounds * task.train.steps)


def charged_events(entries: Iterable[Entry], *, run: str) -> list[Event]:
    """What a run has been charged so far."""
    return [event_of(entry.fields) for entry in entries if entry.kind == "charge" and entry.fields["run"] == run]
