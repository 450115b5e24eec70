"""Every reading and writing of the store in PostgreSQL, one by one; `test_postgresql.py` has whole runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from server.store.audit import append_event, read_events, verify_events
from server.store.opening import open_store
from server.store.ordering import in_force, place_order
from server.store.privacy import read_privacy
from server.store.reading import find_run, read_client_rounds, read_failures, read_rounds, read_run_sites, read_sites
from server.store.removing import remove_run
from server.store.sums import recount
from server.store.tables import metadata
from server.store.writing import begin_run, forget_rounds_after, set_run, write_round
from tests.postgresql import MISSING, PostgreSQL, installed, postgresql
from tests.store.examples import MACHINE, client, facts, private, record
from tests.store.older import BEFORE_TASKS, migrated, require_scores_of_before

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not installed(), reason=MISSING)]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


@pytest.fixture
def store(server):
    opened = open_store(server.new_database())
    yield opened
    opened.close()


def test_the_migrations_make_the_tables(store):
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_run_of_before_there_were_tasks_keeps_its_accuracies_as_scores(server):
    url = server.new_database()
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    migrated(engine, "0003", *BEFORE_TASKS.split(";"))
    engine.dispose()
    store = open_store(url)
    require_scores_of_before(store)
    store.close()


def test_a_reader_sees_one_moment(store):
    with store.reading() as reader:
        assert read_sites(reader) == []
        with store.writing() as writer:
            write_round(writer, begin_run(writer, facts(), at=1000.0), record(1), at=1010.0)
        assert read_sites(reader) == []
    with store.reading() as reader:
        assert [row.site for row in read_sites(reader)] == ["a", "b"]


def test_everything_is_written_and_read_as_in_sqlite(store):
    strange = client("b", 2, outcome="failed", code="x\0y\ud800", examples=10**30, received=None)
    with store.writing() as connection:
        key = begin_run(connection, facts(), at=1000.0)
        write_round(connection, key, private(1), at=1010.0)
        write_round(connection, key, record(2, [client("a", 2, machine=MACHINE), strange]), at=1020.0)
        write_round(connection, key, private(3), at=1030.0)
    with store.writing() as connection:
        before = find_run(connection, "first")
        recount(connection, key)
        assert find_run(connection, "rrrr") == before
        forget_rounds_after(connection, key, 2)
        run = find_run(connection, "first")
        assert (run.rounds, run.best_score, run.epsilon_max) == (2, 0.7, before.epsilon_max and run.epsilon_max)
        assert [row.round for row in read_rounds(connection, run)] == [1, 2]
        assert [cell.code for cell in read_client_rounds(connection, run)] == [None, None, None, "xy?"]
        assert {row.site: row.failed for row in read_run_sites(connection, run)} == {"a": 0, "b": 1}
        assert [row.code for row in read_failures(connection, run)] == ["xy?"]
        assert [row.site for row in read_sites(connection)] == ["a", "b"]
        assert [row.machine for row in read_sites(connection)] == [MACHINE.model_dump(), None]
        assert {row.receipts for row in read_privacy(connection, patience_s=0.0)} == {2}
        place_order(connection, run.id, "exclude", who="ann", at=1.0, argument="b")
        assert in_force(connection, run.id).excluded == {"b"}
        set_run(connection, key, state="finished")
        remove_run(connection, find_run(connection, "first"), who="ann", at=2.0)
        assert read_privacy(connection, patience_s=0.0) == []
        assert verify_events(connection) is None


def test_two_that_write_the_audit_log_at_once_make_one_chain(store):
    def write(who: str) -> None:
        for number in range(20):
            with store.writing() as connection:
                append_event(connection, "order", who=who, at=float(number))

    writers = [threading.Thread(target=write, args=(who,)) for who in ("ann", "bob")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with store.reading() as connection:
        assert len(read_events(connection, limit=1000)) == 40
        assert verify_events(connection) is None
