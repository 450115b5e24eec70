"""A coordinator's metrics for Prometheus, read from its files at every scrape, so that no state is kept.

Names of runs and sites are labels; nothing else of a site is said but how it answered in the last round.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from fedlora.deployment.health import AllConditions, Health
from fedlora.settings import SettingsError
from server.deployment.trust_metrics import of_trust
from server.runs.submissions import completed_rounds, look_at, runs
from server.settings import ServerSettings
from server.store.metrics import budgets, evaluations, machines, missing, shown_runs, sums
from server.store.opening import open_existing
from server.trust.provision import read_registry

Gauge = GaugeMetricFamily
TAIL_BYTES = 1 << 20
log = logging.getLogger("fedlora.metrics")


def exposition(settings: ServerSettings, health: Health, conditions: AllConditions = dict) -> bytes:
    """All metrics in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Coordinator(settings, health, conditions))
    return generate_latest(registry)


class _Coordinator(Collector):
    def __init__(self, settings: ServerSettings, health: Health, conditions: AllConditions) -> None:
        self._settings = settings
        self._health = health
        self._conditions = conditions

    def collect(self) -> Iterator[Metric]:
        """What cannot be read is absent; the others are there."""
        parts: list[Callable[[], Iterable[Metric]]] = [
            lambda: of_processes(self._health),
            lambda: of_duties(self._conditions),
            lambda: of_sites(self._settings),
            lambda: of_trust(self._settings),
            lambda: of_runs(runs(self._settings)),
            lambda: of_store(self._settings),
        ]
        for part in parts:
            try:
                found = list(part())
            except Exception:
                log.warning("some metrics could not be read", exc_info=True)
                continue
            yield from found

    def describe(self) -> Iterable[Gauge]:
        """Nothing is looked at when the collector is registered."""
        return []


def of_processes(health: Health) -> Iterator[Gauge]:
    ready = Gauge(
        "fedlora_process_ready", "Whether a process of the coordinator is running and ready", labels=["process"]
    )
    starts = Gauge("fedlora_process_starts", "Number of starts", labels=["process"])
    for name, part in health().items():
        ready.add_metric([name], float(bool(part["ready"])))
        starts.add_metric([name], float(str(part["starts"])))
    yield from (ready, starts)


def of_duties(conditions: AllConditions) -> Iterator[Gauge]:
    ok = Gauge("fedlora_duty_ok", "Whether a maintenance task of the coordinator succeeds", labels=["duty"])
    for name, condition in conditions().items():
        ok.add_metric([name], float(condition.ok))
    yield ok


def of_sites(settings: ServerSettings) -> Iterator[Gauge]:
    sites = Gauge("fedlora_sites", "Sites, by status", labels=["status"])
    counts = Counter(site.status for site in read_registry(settings).sites.values())
    for status in ("approved", "revoked"):
        sites.add_metric([status], counts[status])
    yield sites


def of_runs(folders: Iterable[Path]) -> Iterator[Metric]:
    state = Gauge("fedlora_run_state", "1 for the current state of the run", labels=["run", "state"])
    rounds = Gauge("fedlora_run_rounds", "Completed rounds", labels=["run"])
    attempts = Gauge("fedlora_run_attempts", "Number of times that the run was submitted to Flower", labels=["run"])
    clients = Gauge("fedlora_round_clients", "Clients of the last round, by outcome", labels=["run", "outcome"])
    sizes = Gauge("fedlora_round_bytes", "Bytes of the last round", labels=["run", "direction"])
    seconds = Gauge("fedlora_round_seconds", "Duration of the last round", labels=["run"])
    measured: list[tuple[str, dict[str, float]]] = []
    for folder in folders:
        name = folder.name
        look = look_at(folder)
        state.add_metric([name, look.state], 1.0)
        if look.state == "damaged":
            continue
        rounds.add_metric([name], completed_rounds(folder))
        attempts.add_metric([name], look.submission.attempts)
        records = last_records(folder / "rounds.jsonl")
        if not records:
            continue
        last = records[-1]
        for outcome, count in Counter(client["outcome"] for client in last["clients"]).items():
            clients.add_metric([name, outcome], count)
        sizes.add_metric([name, "up"], last["bytes_up"])
        sizes.add_metric([name, "down"], last["bytes_down"])
        seconds.add_metric([name], last["seconds"])
        if evaluated := [record["evaluation"] for record in records if record["evaluation"]]:
            measured.append((name, {key: value for key, value in evaluated[-1].items() if key != "examples"}))
    yield from (state, rounds, attempts, clients, sizes, seconds, *evaluations(measured))


def of_store(settings: ServerSettings) -> Iterator[Metric]:
    """Metrics that need the store: failures by reason, bytes, budgets. None if the store is not reachable."""
    try:
        store = open_existing(settings.store_url)
    except SettingsError:
        return
    try:
        with store.reading() as connection:
            runs = shown_runs(connection)
            found = [*sums(connection, runs), *budgets(connection, runs), *missing(connection), *machines(connection)]
    except SQLAlchemyError:
        return
    finally:
        store.close()
    yield from found


def last_records(path: Path) -> list[dict[str, Any]]:
    """The whole rounds within the file's last MiB; none of a line that is being written."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return []
    lines = tail.split(b"\n")[1 if size > TAIL_BYTES else 0 : -1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError:  # of a journal that is damaged nothing is said
        return []
