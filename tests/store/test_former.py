"""Former names of fields: what scripts of the version before read."""

from __future__ import annotations

from dataclasses import asdict, fields, replace

import pytest

from server.store.former import RENAMED
from server.store.opening import open_store
from server.store.ordering import place_order
from server.store.reading import find_run, read_orders, read_run_sites, read_sites
from server.store.rows import OrderRow, RunRow, RunSiteRow, SiteRow
from server.store.writing import begin_run, write_round
from tests.store.examples import facts, record


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path / "fedlora.db")
    with opened.writing() as connection:
        key = begin_run(connection, facts(), at=1000.0)
        write_round(connection, key, record(1), at=1010.0)
        place_order(connection, key.id, "pause", who="ann", at=1020.0)
    yield opened
    opened.close()


def test_every_row_says_the_same_under_a_former_name(store):
    with store.reading() as connection:
        run = find_run(connection, "first")
        rows = [run, *read_orders(connection, run), *read_run_sites(connection, run), *read_sites(connection)]
    assert {type(row) for row in rows} == {RunRow, OrderRow, RunSiteRow, SiteRow}
    for row in rows:
        values = asdict(row)
        former = {name: now for name, now in RENAMED.items() if name in values}
        assert former
        assert all(values[name] == values[now] for name, now in former.items())


def test_a_changed_row_changes_under_both_names(store):
    with store.reading() as connection:
        run = replace(find_run(connection, "first"), reason="stopped by ann")
    assert (run.reason, run.why) == ("stopped by ann", "stopped by ann")


@pytest.mark.parametrize("kind", [RunRow, OrderRow, RunSiteRow, SiteRow])
def test_no_field_is_left_that_only_the_former_name_has(kind):
    names = {field.name for field in fields(kind)}
    assert all(now in names for name, now in RENAMED.items() if name in names)
