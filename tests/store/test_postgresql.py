"""The store on a real PostgreSQL server: the same rows as in SQLite; a server that dies costs no run and no round."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict

import pytest
from sqlalchemy import Connection

from fedlora.settings import SettingsError
from server.record.records import RoundFinished
from server.store.audit import verify_events
from server.store.opening import open_store
from server.store.reading import read_client_rounds, read_rounds, read_runs
from simulations.run import prepare, simulate
from tests.postgresql import MISSING, PostgreSQL, installed, postgresql

pytestmark = pytest.mark.skipif(not installed(), reason=MISSING)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


def rows(connection: Connection) -> list[dict[str, object]]:
    """All that a run's rounds say, but for when and how long."""
    (run,) = read_runs(connection)
    kept = [*read_rounds(connection, run), *read_client_rounds(connection, run)]
    return [{key: value for key, value in asdict(row).items() if key not in ("finished_at", "seconds")} for row in kept]


def test_a_run_leaves_the_same_rows_as_in_sqlite(recipe, tmp_path, server):
    found = []
    for number, url in enumerate((server.new_database(), str(tmp_path / "fedlora.db"))):
        simulate(prepare(recipe()), tmp_path / str(number) / "run", watch=lambda event: None, store=url)
        with closing(open_store(url)) as store, store.reading() as connection:
            found.append(rows(connection))
            assert verify_events(connection) is None
    assert found[0] == found[1]
    assert len(found[0]) == 3 + 3 * 4


def test_a_server_that_is_away_for_a_round_costs_no_run_and_in_the_end_no_round(recipe, tmp_path, server):
    url = server.new_database()

    def watch(event: object) -> None:
        if isinstance(event, RoundFinished):
            {1: server.kill, 2: server.start}.get(event.record.round, lambda: None)()

    summary = simulate(prepare(recipe()), tmp_path / "run", watch=watch, store=url)
    with closing(open_store(url)) as store, store.reading() as connection:
        (run,) = read_runs(connection)
        assert [row.round for row in read_rounds(connection, run)] == [1, 2, 3]
        assert (run.state, run.bytes_up) == ("finished", summary["bytes_up"])


def test_processes_that_find_an_empty_database_at_once_make_its_tables_once(server):
    url, failed = server.new_database(), []

    def open_and_close() -> None:
        try:
            open_store(url).close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=open_and_close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_server_that_does_not_answer_is_named_without_the_password(server):
    with pytest.raises(
        SettingsError, match=r"cannot use the store .*127\.0\.0\.1:1/.*Is the server running"
    ) as refused:
        open_store("postgresql://fedlora:hunter2@127.0.0.1:1/fedlora")
    assert "hunter2" not in str(refused.value)
