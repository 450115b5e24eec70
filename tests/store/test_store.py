"""What is written is read back, sums agree with the rows, and a bad store is said."""

from __future__ import annotations

import sqlite3
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, select, text
from sqlalchemy.exc import IntegrityError

from fedlora.config import DeviceSettings
from fedlora.privacy.accounting import Event, epsilon, quick_epsilon
from fedlora.protocol.task import Evaluation
from fedlora.settings import SettingsError
from fedlora.tasks.metric import LOSS
from server.store.audit import append_event, events_after, read_events, verify_events
from server.store.forecast import Account, at_least, counted, quick, rounds_left, seen_all
from server.store.opening import Store, open_existing, open_store, store_beside
from server.store.privacy import read_privacy, read_receipts
from server.store.reading import (
    find_run,
    read_client_rounds,
    read_failures,
    read_rounds,
    read_run_sites,
    read_runs,
    read_sites,
)
from server.store.spending import verify_account
from server.store.sums import recount
from server.store.tables import accounts, client_rounds, metadata, receipts, run_sites, runs, sites
from server.store.writing import begin_run, forget_rounds_after, set_run, write_round
from tests.store.examples import (
    BUDGET,
    DELTA,
    MACHINE,
    RATE,
    SIGMA,
    STEPS,
    client,
    facts,
    private,
    receipt,
    record,
    signature_of,
)
from tests.store.older import BEFORE_TASKS, migrated, require_scores_of_before


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "fedlora.db")
    yield opened
    opened.close()


def fill(store: Store, *records, run: str = "r" * 32, at: float = 1000.0, **changes):
    with store.writing() as connection:
        key = begin_run(connection, facts(run, **changes), at=at)
        for number, one in enumerate(records, 1):
            write_round(connection, key, one, at=at + 10.0 * number)
    return key


def test_a_round_is_read_back_as_it_was_written(store):
    late = client("b", 2, outcome="late", received=None)
    fill(store, record(1), record(2, [client("a", 2), late], evaluation=None))
    with store.reading() as connection:
        run = find_run(connection, "first")
        first, second = read_rounds(connection, run)
        cells = read_client_rounds(connection, run)
        (missing,) = read_failures(connection, run)
    assert (first.score, first.asked, first.trained, first.bytes_up) == (0.6, 2, 2, 200)
    assert first.client_score == pytest.approx((0.8 * 3 + 0.4 * 1) / 4)
    assert (second.score, second.late, second.seconds, second.finished_at) == (None, 1, 10.0, 1020.0)
    assert [(cell.round, cell.site, cell.outcome) for cell in cells] == [
        (1, "a", "trained"), (1, "b", "trained"), (2, "a", "trained"), (2, "b", "late"),
    ]  # fmt: skip
    assert (missing.site, missing.outcome, missing.code, missing.count) == ("b", "late", "no-answer", 1)
    assert (run.score, run.best_score, run.rounds, run.progress) == (0.6, 0.6, 2, 0.5)
    assert (run.bytes_up, run.dense_up, run.dense_down) == (300, 3 * 1000, 4 * 1000)
    assert run.aggregation_error_max == 0.5


def test_sums_that_are_kept_agree_with_those_that_are_computed_again(store):
    odd = client("b", 3, outcome="refused", code="budget-exhausted", received=None)
    told = client("a", 4, machine=MACHINE, resources=DeviceSettings(r=2))
    key = fill(store, private(1), record(2), record(3, [client("a", 3), odd]), record(4, [told]))
    fill(store, record(1), run="s" * 32)

    def sums():
        with store.reading() as connection:
            return connection.execute(select(runs)).all(), connection.execute(select(run_sites)).all()

    before = sums()
    with store.writing() as connection:
        recount(connection, key)
    assert sums() == before
    assert before[1]


def test_a_run_that_went_back_forgets_its_later_rounds_but_not_what_was_spent(store):
    key = fill(store, private(1), private(2), private(3))
    with store.writing() as connection:
        begin_run(connection, facts(), at=2000.0)
        forget_rounds_after(connection, key, 1)
        write_round(connection, key, private(2), at=2010.0)
    with store.reading() as connection:
        (run,) = read_runs(connection)
        assert [row.round for row in read_rounds(connection, run)] == [1, 2]
        assert (run.rounds, run.bytes_up, run.started_at) == (2, 400, 1000.0)
        assert {row.asked for row in read_run_sites(connection, run)} == {2}
        assert {row.receipts for row in read_privacy(connection)} == {3}


def test_the_same_round_twice_is_refused_whole(store):
    key = fill(store, record(1))
    with pytest.raises(IntegrityError), store.writing() as connection:
        write_round(connection, key, record(1), at=5.0)
    with store.reading() as connection:
        assert find_run(connection, "first").bytes_up == 200


def test_two_nodes_of_one_name_and_what_no_database_holds_cost_nobody_a_round(store):
    strange = client(
        "a", 1, outcome="failed", code="x\0" + "y" * 500 + "\ud800", examples=10**30, seconds=float("inf"),
        received=None, train_loss=float("nan"),
    )  # fmt: skip
    fill(store, record(1, [client("a", 1), strange], aggregation_error=float("nan")))
    with store.reading() as connection:
        run = find_run(connection, "first")
        cells = read_client_rounds(connection, run)
        (site,) = read_run_sites(connection, run)
    assert [cell.site for cell in cells] == ["a", "a"]
    assert len(cells[1].code or "") == 200
    assert (cells[1].seconds, cells[1].train_loss, cells[1].examples) == (0.0, None, 2**63 - 1)
    assert (site.asked, site.trained, site.failed) == (2, 1, 1)


def test_a_run_of_which_nothing_is_new_is_the_same_at_the_next_look(store, monkeypatch):
    key = fill(store, record(1))
    with store.writing() as connection:
        set_run(connection, key, heard_at=2001.0)
    found = []
    for now in (2001.0, 2002.0, 2014.0):
        monkeypatch.setattr("server.store.reading.time.time", lambda now=now: now)
        with store.reading() as connection:
            found += read_runs(connection)
    assert found[0] == found[1] != found[2]
    assert [run.eta_at for run in found] == [2030.0, 2030.0, 2040.0]


def test_sites_are_added_up_over_runs(store):
    fill(store, record(1), record(2))
    fill(store, record(1, [client("b", 1, outcome="late")]), run="s" * 32, name="second", at=9000.0)
    with store.reading() as connection:
        a, b = read_sites(connection)
    assert (a.site, a.runs, a.asked, a.trained, a.last_run) == ("a", 1, 2, 2, "first")
    assert (b.site, b.runs, b.asked, b.late, b.last_run, b.last_outcome) == ("b", 2, 3, 1, "second", "late")
    assert a.mean_seconds == pytest.approx((2.0 + 4.0) / 2)
    assert (a.last_seen_at, b.last_seen_at) == (1020.0, 1020.0)


def test_what_a_site_said_of_its_machine_lasts_until_it_says_otherwise(store):
    newer = MACHINE.model_copy(update={"fedlora": "0.1.0"})
    fill(store, record(1, [client("a", 1, machine=MACHINE), client("b", 1)]), record(2))
    fill(store, record(1, [client("a", 1, machine=newer)]), record(2), run="s" * 32, name="second", at=9000.0)
    fill(store, record(1), run="t" * 32, name="third", at=19000.0)
    with store.reading() as connection:
        a, b = read_sites(connection)
        first, second, third = (
            read_run_sites(connection, find_run(connection, name))[0] for name in ("first", "second", "third")
        )
    assert (a.machine, b.machine) == (newer.model_dump(), None)
    assert (first.machine, second.machine, third.machine) == (MACHINE.model_dump(), newer.model_dump(), None)


def test_a_store_of_an_older_fedlora_is_brought_up_with_what_is_in_it(tmp_path):
    there = "INSERT INTO sites (kind, name) VALUES ('deployment', 'b')"
    migrated(create_engine(f"sqlite:///{tmp_path / 'older.db'}"), "0001", there)
    store = open_store(tmp_path / "older.db")
    fill(store, record(1, [client("a", 1, machine=MACHINE)]))
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        assert read_sites(connection)[0].machine == MACHINE.model_dump()
        assert connection.execute(select(sites.c.name).order_by(sites.c.name)).scalars().all() == ["a", "b"]
    store.close()


def test_a_run_of_before_there_were_tasks_keeps_its_accuracies_as_scores(tmp_path):
    migrated(create_engine(f"sqlite:///{tmp_path / 'older.db'}"), "0003", *BEFORE_TASKS.split(";"))
    store = open_store(tmp_path / "older.db")
    require_scores_of_before(store)
    store.close()


def test_where_smaller_is_better_the_smallest_is_the_best(store):
    low, high = (Evaluation(loss=loss, examples=3) for loss in (0.5, 1.0))
    key = fill(store, record(1, evaluation=low), record(2, evaluation=high), metric=LOSS)
    with store.reading() as connection:
        run = find_run(connection, "first")
        assert (run.score, run.best_score, run.accuracy) == (1.0, 0.5, None)
    with store.writing() as connection:
        recount(connection, key)
        assert find_run(connection, "first").best_score == 0.5


def test_what_else_was_measured_is_kept_by_name(store):
    told = Evaluation(loss=2.0, token_accuracy=0.25, perplexity=7.5, examples=3)
    fill(
        store, record(1, [client("a", 1, received=told)], evaluation=told), record(2, [], evaluation=None), metric=LOSS
    )
    with store.reading() as connection:
        run = find_run(connection, "first")
        (site,) = read_run_sites(connection, run)
        rows = [run, read_rounds(connection, run)[0], read_client_rounds(connection, run)[0], site]
    for row in rows:
        assert (row.score, row.loss, row.metrics) == (2.0, 2.0, {"token_accuracy": 0.25, "perplexity": 7.5})


def test_privacy_is_the_sites_own_figures(store):
    fill(store, private(1), private(2), private(3))
    with store.reading() as connection:
        row = next(row for row in read_privacy(connection, patience_s=60.0) if row.site == "a")
        charges = read_receipts(connection, site="a", dataset="default")
    newest = receipt("a", 3)
    assert (row.epsilon, row.budget, row.delta) == (newest.epsilon_lifetime, BUDGET, DELTA)
    assert row.left == BUDGET - newest.epsilon_lifetime
    assert (row.noise_multiplier, row.rate, row.receipts, row.insecure) == (SIGMA, RATE, 3, 0)
    assert row.sound
    step = Event(rate=RATE, noise_multiplier=SIGMA, steps=STEPS)
    account = Account((Event(rate=RATE, noise_multiplier=SIGMA, steps=3 * STEPS),), row.epsilon, BUDGET, DELTA, step)
    assert row.forecast.rounds_left == counted(account)
    assert row.forecast.complete
    assert row.forecast.runs_out_at == 1030.0 + 10.0 * counted(account)
    assert [charge.round for charge in charges] == [3, 2, 1]
    assert all(charge.verified for charge in charges)


@pytest.mark.parametrize(("rate", "sigma", "budget"), [(0.1, 1.5, 4.0), (0.05, 0.7, 8.0), (1.0, 20.0, 1.5)])
def test_the_safe_forecast_is_never_more_than_the_exact_one_and_that_is_the_counted_one(rate, sigma, budget):
    seen = Event(rate=rate, noise_multiplier=sigma, steps=30)
    one = Event(rate=rate, noise_multiplier=sigma, steps=10)
    account = Account((seen,), epsilon([seen], delta=1e-5), budget, 1e-5, one)
    safe, exact = at_least(account), rounds_left(account)
    assert safe is not None
    assert safe <= counted(account) == exact


def test_a_forecast_puts_what_was_not_seen_down_to_rounds_like_the_last():
    one = Event(rate=0.1, noise_multiplier=1.5, steps=10)
    nine = Event(rate=0.1, noise_multiplier=1.5, steps=90)
    spent = epsilon([nine], delta=1e-5)  # nine rounds were charged, one was seen
    account = Account((one,), spent, 4.0, 1e-5, one)
    assert not seen_all(account)
    assert rounds_left(account) == counted(Account((nine,), spent, 4.0, 1e-5, one))
    assert rounds_left(Account((one,), 4.0, 4.0, 1e-5, one)) == 0


def test_the_quick_price_is_that_of_the_accountant():
    events = [Event(rate=0.02, noise_multiplier=1.0, steps=70), Event(rate=0.1, noise_multiplier=2.0, steps=9)]
    assert quick(events, delta=1e-5) == pytest.approx(quick_epsilon(events, delta=1e-5), rel=1e-9)
    assert quick([], delta=1e-5) == 0.0


def test_a_receipt_without_a_signature_that_fits_is_counted_and_one_changed_in_the_store_is_found(store):
    forged = client("a", 1, receipt=receipt("a", 1), signature=signature_of(receipt("a", 2)))
    insecure = receipt("b", 1, secure=False)
    fill(store, record(1, [forged, client("b", 1, receipt=insecure)]))
    with store.reading() as connection:
        rows = {row.site: row for row in read_privacy(connection, patience_s=0.0)}
    assert (rows["a"].unverified, rows["a"].key, rows["a"].sound) == (1, "", False)
    assert (rows["b"].unverified, rows["b"].insecure) == (0, 1)
    with store.writing() as connection:
        assert verify_account(connection, rows["b"].account) == []
        changed = insecure.model_copy(update={"epsilon_lifetime": 0.01}).model_dump_json()
        connection.execute(receipts.update().where(receipts.c.account_id == rows["b"].account).values(receipt=changed))
        assert verify_account(connection, rows["b"].account) == [
            f"the receipt of run {'r' * 32}, round 1 is not signed with the site's key"
        ]


def test_the_same_receipt_again_counts_once_and_an_older_one_changes_nothing_that_is_shown(store):
    fill(
        store,
        private(2),
        record(3, [client("a", 3, receipt=receipt("a", 2))]),
        record(4, [client("a", 4, receipt=receipt("a", 1))]),
    )
    with store.reading() as connection:
        row = next(row for row in read_privacy(connection, patience_s=0.0) if row.site == "a")
        assert connection.execute(select(accounts.c.receipts).where(accounts.c.id == row.account)).scalar() == 2
    assert (row.epsilon, row.sequence) == (receipt("a", 2).epsilon_lifetime, 3)


def test_the_audit_log_is_a_chain_and_says_where_it_breaks(store):
    with store.writing() as connection:
        for number in range(3):
            append_event(connection, "order", who="ann", at=float(number), run="r", verb="pause", number=number)
    with store.reading() as connection:
        assert [event.fields["number"] for event in read_events(connection, who="ann", limit=2)] == [2, 1]
        assert [event.sequence for event in events_after(connection, 1)] == [2, 3]
        assert verify_events(connection) is None
    with store.writing() as connection:
        connection.execute(text("UPDATE events SET line = replace(line, 'ann', 'bob') WHERE sequence = 2"))
    with store.reading() as connection:
        assert verify_events(connection) == "line 2 was changed: its digest does not match its content"
    with store.writing() as connection:
        connection.execute(text("UPDATE events SET line = replace(line, 'bob', 'ann'), who = 'bob' WHERE sequence = 2"))
    with store.reading() as connection:
        assert verify_events(connection) == "line 2 does not match its columns"
    with store.writing() as connection:
        connection.execute(text("DELETE FROM events WHERE sequence = 2"))
    with store.reading() as connection:
        assert verify_events(connection) == "line 2 does not follow the line before it"


def test_whoever_reads_does_not_block_who_writes(store):
    fill(store, record(1))
    with store.reading() as reader:
        assert len(reader.execute(select(client_rounds)).all()) == 2  # a transaction that stays open
        writer = threading.Thread(target=lambda: fill(store, record(1), run="s" * 32))
        writer.start()
        writer.join(timeout=5)
        assert not writer.is_alive()
        assert len(reader.execute(select(client_rounds)).all()) == 2, "a reader sees one moment"
    with store.reading() as reader:
        assert len(reader.execute(select(client_rounds)).all()) == 4


def test_the_migrations_make_the_tables(store):
    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_store_that_cannot_be_used_is_said_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "text.db").write_text("no database, but long enough to have a header that is not one" * 20)
    with pytest.raises(SettingsError, match=r"text\.db: file is not a database\. Choose another file"):
        open_store(tmp_path / "text.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot use the store .*file/fedlora\.db"):
        open_store(tmp_path / "file/fedlora.db")
    with pytest.raises(SettingsError, match=r"there is no store at .*nothing\.db yet"):
        open_existing(tmp_path / "nothing.db")
    assert not (tmp_path / "nothing.db").exists()
    with pytest.raises(SettingsError, match=r"mysql:// is not supported; use sqlite"):
        open_store("mysql://here/x")
    with pytest.raises(SettingsError, match="must be a file"):
        open_store("sqlite://")
    monkeypatch.setenv("FEDLORA_STORE", "none")
    assert store_beside(tmp_path / "run") is None
    monkeypatch.delenv("FEDLORA_STORE")
    assert store_beside(tmp_path / "run") == str(tmp_path / "fedlora.db")


def test_a_store_of_a_newer_fedlora_is_left_alone(tmp_path):
    open_store(tmp_path / "fedlora.db").close()
    with sqlite3.connect(tmp_path / "fedlora.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"newer fedlora \(schema 9999, this one knows .*upgrade fedlora"):
        open_store(tmp_path / "fedlora.db")


def test_an_unknown_run_is_answered_with_those_that_there_are(store):
    fill(store, record(1))
    with store.reading() as connection:
        assert find_run(connection, "rrrr").name == "first"
        with pytest.raises(SettingsError, match="there is no run 'nothing' in this store; the newest: first"):
            find_run(connection, "nothing")


def test_a_run_with_noise_from_a_seed_is_insecure_for_good(store):
    with store.writing() as connection:
        key = begin_run(connection, facts(), at=1.0)
        seeded = record(1, [client("a", 1, receipt=receipt("a", 1, secure=False))])
        write_round(connection, key, seeded, at=2.0)
        assert find_run(connection, "first").insecure
        write_round(connection, key, private(2), at=3.0)
        assert find_run(connection, "first").insecure
