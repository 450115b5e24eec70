"""A large store, and what it costs the loop.

python -m tests.bench.bench_store              # 500 runs x 200 rounds x 50 clients: 300 MB, two minutes
python -m tests.bench.bench_store --runs 20    # a smaller one, for a quick look
python -m tests.bench.bench_store --overhead   # CPU seconds of the store within rounds of the demo, 2 rounds

The first run is written round by round as the loop writes it, the others are copies of it inside the database. Each
figure is the second of two calls, as seconds of wall time and of CPU; the CPU time is what another machine can repeat.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import Connection, Table, insert, literal, select, update

from server.dashboard.app import create_app
from server.dashboard.doors.access import Access, Role
from server.dashboard.doors.gate import Auth
from server.dashboard.machine.api import add_api
from server.record.records import RoundRecord
from server.store.audit import append_event
from server.store.opening import Store, open_store
from server.store.recorder import Recorder
from server.store.tables import client_rounds, failures, rounds, run_sites, runs
from server.store.writing import begin_run, write_round
from tests.store.examples import client, facts, receipt, record

PATHS = (
    "/runs", "/runs/run-7", "/runs/run-7/rounds", "/runs/run-7/clients", "/runs/run-7/sites", "/runs/run-7/failures",
    "/sites", "/privacy", "/events", "/events/verify", "../../metrics",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--overhead", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.overhead:
            overhead(Path(folder))
            return
        store = open_store(Path(folder) / "fedlora.db")
        started = time.monotonic()
        per_round = fill(store, runs=arguments.runs, rounds=arguments.rounds, clients=arguments.clients)
        size = (Path(folder) / "fedlora.db").stat().st_size / 1e6
        cells = arguments.runs * arguments.rounds * arguments.clients
        print(f"{cells:,} client rounds, {size:.0f} MB, filled in {time.monotonic() - started:.0f} s")
        print(
            f"one round of {arguments.clients} private clients, as the loop writes it: {1e3 * per_round:.1f} ms of CPU"
        )
        pages(store, Path(folder))


def fill(store: Store, *, runs: int, rounds: int, clients: int) -> float:
    """Returns CPU seconds of one round, as the loop writes it."""
    with store.writing() as connection:
        key = begin_run(connection, facts(f"{0:032}", name="run-0", kind="deployment", rounds_wanted=rounds), at=1e9)
    records = list(a_run(rounds, clients))
    begun = time.process_time()
    for number, one in enumerate(records, 1):
        with store.writing() as connection:
            write_round(connection, key, one, at=1e9 + 60.0 * number)
    per_round = (time.process_time() - begun) / rounds
    with store.writing() as connection:
        for number in range(1, runs):
            copy_run(connection, key.id, number)
        for number in range(1000):
            append_event(connection, "order", who="ann", at=1e9 + number, run=f"{0:032}", verb="pause", site=None)
    return per_round


def a_run(count: int, clients: int) -> Iterator[RoundRecord]:
    """Every tenth answer is late or refused; the first two clients train under privacy, as figures of two sites do."""
    for number in range(1, count + 1):
        answers = []
        for position in range(clients):
            name = ("a", "b")[position] if position < 2 else f"site-{position:02}"
            bad = (number + position) % 10 == 0
            spent = receipt(name, number, f"{0:032}", epsilon_lifetime=0.01 * number) if position < 2 else None
            answers.append(client(name, number, outcome="late" if bad else "trained", receipt=None if bad else spent))
        yield record(number, answers)


def copy_run(connection: Connection, source: int, number: int) -> None:
    """All rows of a run again under another id."""
    others = [column for column in runs.c if column.name not in ("id", "run", "name", "begun_at")]
    new = select(literal(f"{number:032}"), literal(f"run-{number}"), literal(1e9 + number), *others).where(
        runs.c.id == source
    )
    connection.execute(insert(runs).from_select(["run", "name", "begun_at", *(c.name for c in others)], new))
    target = connection.execute(select(runs.c.id).where(runs.c.run == f"{number:032}")).scalar_one()
    connection.execute(update(runs).where(runs.c.id == target).values(state="finished"))
    tables: tuple[Table, ...] = (rounds, client_rounds, run_sites, failures)
    for table in tables:
        rest = [column for column in table.c if column.name != "run_id"]
        rows = select(literal(target), *rest).where(table.c.run_id == source)
        connection.execute(insert(table).from_select(["run_id", *(c.name for c in rest)], rows))


def pages(store: Store, folder: Path) -> None:
    """Every reading of the API, with its JSON, through the gate: what a page asks for and more."""
    access = Access(folder / "access.json")
    app = create_app(Auth(access, hosts=None))
    add_api(app, store)
    browser = TestClient(app, headers={"Authorization": f"Bearer {access.add_token('bench', Role.VIEWER, days=1)}"})
    print(f"{'GET':<24}{'s':>8}{'CPU s':>8}{'kB':>9}")
    for path in PATHS:
        address = "/metrics" if path.endswith("metrics") else f"/api/v1{path}"
        browser.get(address)
        wall, cpu, answer = measured(lambda address=address: browser.get(address))  # type: ignore[misc]
        assert answer.status_code == 200, answer.text
        print(f"{address:<24}{wall:>8.3f}{cpu:>8.3f}{len(answer.content) / 1e3:>9.0f}")


def measured(action: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.monotonic(), time.process_time()
    result = action()
    return time.monotonic() - wall, time.process_time() - cpu, result


def overhead(folder: Path) -> None:
    """Two rounds of the demo; the recorder's own time is taken inside each of its calls."""
    from fedlora.config import load
    from simulations.run import prepare, simulate

    spent = {"wall": 0.0, "cpu": 0.0, "calls": 0.0}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            wall, cpu, result = measured(lambda: method(*arguments, **keywords))
            spent["wall"] += wall
            spent["cpu"] += cpu
            spent["calls"] += 1
            return result

        return call

    for name in ("watch", "before_round", "between_rounds", "during_round", "excluded"):
        setattr(Recorder, name, timed(getattr(Recorder, name)))
    simulation = prepare(load("six-airlines", ["rounds.count=2"]))
    wall, cpu, _ = measured(
        lambda: simulate(simulation, folder / "run", watch=lambda event: None, store=str(folder / "fedlora.db"))
    )
    print(
        f"two rounds of the demo: {cpu:.1f} s of CPU, {wall:.1f} s; the store within them: {spent['calls']:.0f} calls,"
    )
    print(f"{spent['cpu']:.3f} s of CPU ({spent['cpu'] / cpu:.2%}), {spent['wall']:.3f} s ({spent['wall'] / wall:.2%})")


if __name__ == "__main__":
    main()
