"""What was sent and is not confirmed, in the store: of runs, of ledgers, in forecasts, and on the privacy page."""

from __future__ import annotations

import pytest

from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.unconfirmed import SiteSpent
from server.dashboard.pages.privacy import Choice, ledger_table, waiting_table
from server.store.audit import read_events
from server.store.forecast import Account, at_least, at_most, counted, quick_at_most, rounds_left
from server.store.notices import write_notices
from server.store.opening import open_store
from server.store.privacy import read_privacy
from server.store.reading import find_run, read_rounds
from server.store.removing import remove_run
from server.store.spent import read_spent, write_spent
from server.store.writing import begin_run, forget_rounds_after, set_run, write_round
from tests.store.examples import BUDGET, DELTA, RATE, SIGMA, STEPS, facts, private, receipt


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "fedlora.db")
    yield opened
    opened.close()


def after(trainings: int) -> float:
    return epsilon([Event(rate=RATE, noise_multiplier=SIGMA, steps=trainings * STEPS)], delta=DELTA)


def spent(*, confirmed: int, unconfirmed: int) -> SiteSpent:
    newest = receipt("a", confirmed) if confirmed else None
    return SiteSpent(after(confirmed + unconfirmed), after(confirmed), unconfirmed, newest, secure=True)


def begun(store, *, kind: str = "deployment", run: str = "r" * 32):
    with store.writing() as connection:
        return begin_run(connection, facts(run, kind=kind), at=1000.0)


def test_a_ledger_carries_what_was_sent_to_its_site(store):
    key = begun(store)
    waits = {"a": spent(confirmed=1, unconfirmed=2), "c": spent(confirmed=0, unconfirmed=1)}
    with store.writing() as connection:
        write_round(connection, key, private(1), at=1010.0, spent=waits)
    with store.reading() as connection:
        rows = {row.site: row for row in read_privacy(connection, patience_s=60.0)}
        hasty = {row.site: row for row in read_privacy(connection, patience_s=0.0)}
        run = find_run(connection, "first")
        sent = {row.site: row for row in read_spent(connection, run=run)}
        shown = waiting_table(read_spent(connection, waiting=True))
    assert (rows["a"].epsilon, rows["a"].at_most, rows["a"].unconfirmed) == (after(1), after(3), 2)
    assert rows["a"].left == BUDGET - after(3)
    assert rows["b"].at_most == rows["b"].epsilon == after(1)
    assert hasty["a"].at_most >= rows["a"].at_most
    assert run.epsilon_max == after(3)
    assert (sent["c"].epsilon, sent["c"].confirmed, sent["c"].unconfirmed) == (after(1), 0.0, 1)
    assert shown.count("<tr") == 1 + 2
    assert "2 tasks sent, not confirmed" in ledger_table(list(rows.values()), Choice())


def test_a_budget_is_nearly_spent_when_the_page_shows_it_and_not_only_by_receipts(store):
    """One receipt of ten times less than the budget, and tasks that no receipt covers."""
    key, often = begun(store), 1
    while after(often) < 0.8 * BUDGET:
        often += 1
    for waiting, told in ((1, []), (often, ["a"]), (often, ["a"])):
        with store.writing() as connection:
            write_spent(connection, key, {"a": spent(confirmed=1, unconfirmed=waiting)})
            if waiting == 1:
                write_round(connection, key, private(1), at=1010.0)
            write_notices(connection, key, private(1), fraction=1.0, at=1010.0)
        with store.reading() as connection:
            events = read_events(connection, kind="budget-nearly-spent")
        assert [event.fields["site"] for event in events] == told
    assert events[0].fields["epsilon"] >= after(1 + often) > 0.8 * events[0].fields["budget"]


def test_a_receipt_of_a_later_run_covers_what_an_ended_one_had_sent(store):
    first, second = begun(store), begun(store, run="s" * 32)
    with store.writing() as connection:
        write_round(connection, first, private(1), at=1010.0, spent={"a": spent(confirmed=1, unconfirmed=1)})
        set_run(connection, first, ended_at=1020.0)
    with store.reading() as connection:
        assert next(row for row in read_privacy(connection) if row.site == "a").unconfirmed == 1
    with store.writing() as connection:
        write_round(connection, second, private(2), at=1030.0, spent={"a": spent(confirmed=2, unconfirmed=0)})
    with store.reading() as connection:
        assert next(row for row in read_privacy(connection) if row.site == "a").unconfirmed == 0


def test_what_was_said_before_is_replaced_and_goes_with_its_run(store):
    key = begun(store, kind="simulation")
    for number, waiting in ((1, 3), (2, 0)):
        with store.writing() as connection:
            said = {"a": spent(confirmed=number, unconfirmed=waiting)}
            write_round(connection, key, private(number), at=1000.0 + number, spent=said)
    with store.writing() as connection:
        run = find_run(connection, "first")
        assert run.epsilon_max == after(2) < after(4)
        assert [row.epsilon_max for row in read_rounds(connection, run)] == [after(4), after(2)]
        write_spent(connection, key, {"a": spent(confirmed=2, unconfirmed=1)})
        forget_rounds_after(connection, key, 1)
        assert find_run(connection, "first").epsilon_max == after(3), "rounds that were taken back were paid for"
        set_run(connection, key, state="finished")
        remove_run(connection, find_run(connection, "first"), who="me", at=2000.0)
        assert read_spent(connection) == []


def test_an_epsilon_without_bound_is_kept(store):
    key = begun(store)
    with store.writing() as connection:
        write_spent(connection, key, {"a": SiteSpent(float("inf"), 0.0, 1, None, secure=True)})
        assert find_run(connection, "first").epsilon_max > 1e100


@pytest.mark.parametrize("waiting", [1, 3])
def test_a_forecast_takes_off_what_was_sent(waiting):
    one = Event(rate=RATE, noise_multiplier=SIGMA, steps=STEPS)
    seen = Event(rate=RATE, noise_multiplier=SIGMA, steps=2 * STEPS)
    quiet = Account((seen,), after(2), BUDGET, DELTA, one)
    account = Account((seen,), after(2), BUDGET, DELTA, one, waiting)
    assert at_most(account) == after(2 + waiting)
    assert quick_at_most(account) >= at_most(account)
    assert quick_at_most(quiet) == at_most(quiet) == after(2)
    assert rounds_left(account) == counted(quiet) - waiting
    assert at_least(account) <= rounds_left(account)
