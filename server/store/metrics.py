"""The store for Prometheus: runs that are at work or ended within a day, what failed and why, and privacy budgets.

Labels are bounded: of runs with one name only the newest counts, and of reasons only the most frequent; sites choose
both their reasons and how many they have.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, desc, select

from server.store.former import FORMER
from server.store.opening import Store
from server.store.privacy import read_privacy
from server.store.privacy_rows import PrivacyRow
from server.store.reading import read_failures, read_rounds, read_run_sites, read_runs, read_sites
from server.store.rows import RunRow
from server.store.spent import read_spent
from server.store.tables import sites

RECENT_S = 86_400.0
MOST_RUNS = 100
MOST_CODES = 30
TOLD = ("fedlora", "python", "torch", "flwr", "device")
"""Labels of fedlora_site_info besides the site."""

Gauge, Total = GaugeMetricFamily, CounterMetricFamily


def exposition(store: Store) -> bytes:
    """All of it in Prometheus's text format: the dashboard's /metrics."""
    registry = CollectorRegistry()
    registry.register(_Everything(store))
    return generate_latest(registry)


class _Everything(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        with self._store.reading() as connection:
            runs = shown_runs(connection)
            yield from run_states(runs)
            yield from evaluations((run.name, figures_of(run)) for run in runs)
            yield from last_rounds(connection, runs)
            yield from sums(connection, runs)
            yield from budgets(connection, runs)
            yield from spent_in_runs(connection, runs)
            yield from missing(connection)
            yield from machines(connection)

    def describe(self) -> Iterable[Metric]:
        """Nothing is looked at when the collector is registered."""
        return []


def shown_runs(connection: Connection) -> list[RunRow]:
    """At work, or ended not long ago; the newest of each name."""
    now = time.time()
    newest: dict[str, RunRow] = {}
    for run in read_runs(connection, limit=10 * MOST_RUNS):
        if run.active or now - run.last_seen_at < RECENT_S:
            newest.setdefault(run.name, run)
    return list(newest.values())[:MOST_RUNS]


def run_states(runs: Iterable[RunRow]) -> Iterator[Metric]:
    """Where every run stands."""
    state = Gauge("fedlora_run_state", "1 for the current state of the run", labels=["run", "state"])
    rounds = Gauge("fedlora_run_rounds", "Completed rounds", labels=["run"])
    wanted = Gauge("fedlora_run_rounds_wanted", "Rounds requested by the recipe", labels=["run"])
    for run in runs:
        state.add_metric([run.name, run.state], 1.0)
        rounds.add_metric([run.name], run.rounds)
        wanted.add_metric([run.name], run.total_rounds)
    yield from (state, rounds, wanted)


def evaluations(found: Iterable[tuple[str, Mapping[str, float]]]) -> Iterator[Metric]:
    """The figures of every run's last evaluated round, by name; `fedlora_accuracy` is there for one version more."""
    figures = Gauge(
        "fedlora_evaluation",
        "Figures of the last round that was evaluated: the loss in nats and the task's metrics",
        labels=["run", "metric"],
    )
    one = Gauge(f"fedlora_{FORMER}", "Of the last round that was evaluated", labels=["run"])
    for run, evaluation in found:
        for name, value in evaluation.items():
            figures.add_metric([run, name], value)
        if FORMER in evaluation:
            one.add_metric([run], evaluation[FORMER])
    yield from (figures, one)


def figures_of(run: RunRow) -> dict[str, float]:
    return {**({} if run.loss is None else {"loss": run.loss}), **run.metrics}


def last_rounds(connection: Connection, runs: Iterable[RunRow]) -> Iterator[Metric]:
    """The newest round of every run."""
    clients = Gauge("fedlora_round_clients", "Clients of the last round, by outcome", labels=["run", "outcome"])
    sizes = Gauge("fedlora_round_bytes", "Bytes of the last round", labels=["run", "direction"])
    seconds = Gauge("fedlora_round_seconds", "Duration of the last round", labels=["run"])
    for run in runs:
        for row in read_rounds(connection, run, after=run.rounds - 1):
            for outcome in ("trained", "refused", "failed", "late"):
                clients.add_metric([run.name, outcome], getattr(row, outcome))
            sizes.add_metric([run.name, "up"], row.bytes_up)
            sizes.add_metric([run.name, "down"], row.bytes_down)
            seconds.add_metric([run.name], row.seconds)
    yield from (clients, sizes, seconds)


def sums(connection: Connection, runs: Iterable[RunRow]) -> Iterator[Metric]:
    """What has added up since a run began; failures by their reason."""
    sent = Total("fedlora_run_bytes", "Bytes since the run began", labels=["run", "direction"])
    dense = Total(
        "fedlora_run_dense_bytes", "The same if all factors were sent as float32", labels=["run", "direction"]
    )
    seconds = Total("fedlora_run_seconds", "Duration of all rounds", labels=["run"])
    failed = Total("fedlora_failures", "Clients that did not train, by reason", labels=["run", "outcome", "code"])
    trained = Total("fedlora_site_trained", "Rounds in which a site trained", labels=["run", "site"])
    for run in runs:
        sent.add_metric([run.name, "up"], run.bytes_up)
        sent.add_metric([run.name, "down"], run.bytes_down)
        if run.dense_up is not None and run.dense_down is not None:
            dense.add_metric([run.name, "up"], run.dense_up)
            dense.add_metric([run.name, "down"], run.dense_down)
        seconds.add_metric([run.name], run.seconds)
        for (outcome, code), count in reasons(connection, run).items():
            failed.add_metric([run.name, outcome, code], count)
        for site in read_run_sites(connection, run):
            trained.add_metric([run.name, site.site], site.trained)
    yield from (sent, dense, seconds, failed, trained)


def reasons(connection: Connection, run: RunRow) -> dict[tuple[str, str], int]:
    """Failures by outcome and code over all sites; the rare ones together, as `other`."""
    counts: Counter[tuple[str, str]] = Counter()
    for failure in read_failures(connection, run):
        counts[failure.outcome, failure.code] += failure.count
    kept = dict(counts.most_common(MOST_CODES))
    for (outcome, _), count in counts.most_common()[MOST_CODES:]:
        kept[outcome, "other"] = kept.get((outcome, "other"), 0) + count
    return kept


def budgets(connection: Connection, runs: Iterable[RunRow]) -> Iterator[Metric]:
    """ε by site and dataset. Of simulations only those at work: every one has ledgers of its own."""
    labels = ["site", "dataset", "key"]
    spent = Gauge(
        "fedlora_epsilon_spent", "Upper bound on the ε of everything charged to a dataset, or sent", labels=labels
    )
    confirmed = Gauge("fedlora_epsilon_confirmed", "The part that the site's receipts confirm", labels=labels)
    waiting = Gauge("fedlora_tasks_unconfirmed", "Tasks that were sent and have no receipt", labels=labels)
    budget = Gauge("fedlora_epsilon_budget", "The site's lifetime ε for the dataset", labels=labels)
    left = Gauge("fedlora_epsilon_left", "ε that is left", labels=labels)
    rounds = Gauge(
        "fedlora_epsilon_rounds_left", "Rounds like the last one that certainly fit into the budget", labels=labels
    )
    insecure = Gauge("fedlora_receipts_insecure", "Receipts whose noise came from a seed", labels=labels)
    unverified = Gauge("fedlora_receipts_unverified", "Receipts without a valid signature", labels=labels)
    for row in shown_ledgers(connection, runs):
        names = [row.site, row.dataset, row.key]
        spent.add_metric(names, row.at_most)
        confirmed.add_metric(names, row.epsilon)
        waiting.add_metric(names, row.unconfirmed)
        budget.add_metric(names, row.budget)
        left.add_metric(names, row.left)
        if row.forecast.rounds_left is not None:
            rounds.add_metric(names, row.forecast.rounds_left)
        insecure.add_metric(names, row.insecure)
        unverified.add_metric(names, row.unverified)
    yield from (spent, confirmed, waiting, budget, left, rounds, insecure, unverified)


def spent_in_runs(connection: Connection, runs: Iterable[RunRow]) -> Iterator[Metric]:
    """ε of every shown run at every site, also of sites that have never sent a receipt."""
    spent = Gauge(
        "fedlora_run_epsilon", "Upper bound on the ε of the run; sent tasks are counted", labels=["run", "site"]
    )
    confirmed = Gauge("fedlora_run_epsilon_confirmed", "The part that receipts confirm", labels=["run", "site"])
    for run in runs:
        for row in read_spent(connection, run=run):
            spent.add_metric([run.name, row.site], row.epsilon)
            confirmed.add_metric([run.name, row.site], row.confirmed)
    yield from (spent, confirmed)


def shown_ledgers(connection: Connection, runs: Iterable[RunRow]) -> list[PrivacyRow]:
    at_work = {run.run for run in runs if run.active}
    rows = read_privacy(connection, patience_s=0.0)
    return [row for row in rows if row.kind == "deployment" or row.run in at_work]


def missing(connection: Connection) -> Iterator[Metric]:
    """Deployed sites that have not answered for several rounds."""
    away = Gauge("fedlora_site_missing", "1 while a site is missing", labels=["site"])
    query = select(sites.c.name, sites.c.missing_since).where(sites.c.kind == "deployment").order_by(desc(sites.c.name))
    for name, since in connection.execute(query):
        away.add_metric([name], float(since is not None))
    yield away


def machines(connection: Connection) -> Iterator[Metric]:
    """What deployed sites run, as each said last."""
    told = ("fedlora", "python", "torch", "flwr", "device")
    runs_on = Gauge(
        "fedlora_site_info",
        "Always 1; the labels are versions and device, as reported by the site",
        labels=["site", *told],
    )
    for site in read_sites(connection):
        if site.kind == "deployment" and site.machine is not None:
            runs_on.add_metric([site.site, *(str(site.machine[name]) for name in TOLD)], 1.0)
    yield runs_on
