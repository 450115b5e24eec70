"""A run and its store: what happens is there, what is asked is obeyed, and no trouble with the store costs the run."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sqlalchemy import text

from server.orders import StoppedError
from server.record.records import ClientAnswered, RoundFinished, RoundStarted
from server.runs.submissions import Submission, write_submission
from server.store.audit import read_events, verify_events
from server.store.opening import open_store
from server.store.ordering import place_order
from server.store.reading import (
    find_run,
    read_client_rounds,
    read_detail,
    read_orders,
    read_rounds,
    read_run_sites,
    read_runs,
    read_sites,
)
from simulations.local_grid import Fault
from simulations.run import prepare, simulate
from tests.federations import NODES


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "fedlora.db")


@pytest.fixture
def store(url):
    opened = open_store(url)
    yield opened
    opened.close()


def run(recipe, out: Path, url: str | None, watch=lambda event: None, **options):
    return simulate(prepare(recipe), out, watch=watch, store=url, **options)


def asks(store, verb, *, argument=None, at=RoundStarted, round_number=1):
    """A watch that places an order when something happens."""

    def watch(event):
        if isinstance(event, at) and getattr(event, "round", round_number) == round_number:
            with store.writing() as connection:
                (newest, *_) = read_runs(connection)
                place_order(connection, newest.id, verb, who="ann", at=time.time(), argument=argument)

    return watch


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_a_run_is_in_the_store_as_it_is_in_its_folder(recipe, tmp_path, url, store):
    summary = run(recipe("adapter.r=8"), tmp_path / "first", url)  # a rank that an export does not fill up
    with store.reading() as connection:
        (found,) = read_runs(connection)
        rounds, cells = read_rounds(connection, found), read_client_rounds(connection, found)
        events, detail = read_events(connection), read_detail(connection, found)
        assert verify_events(connection) is None
    assert (found.name, found.state, found.rounds, found.kind) == ("first", "finished", 3, "simulation")
    assert (found.score, found.loss) == (summary["accuracy"], summary["loss"])
    assert (found.bytes_up, found.bytes_down) == (summary["bytes_up"], summary["bytes_down"])
    assert found.dense_up == found.dense_down == 3 * 4 * detail.dense_bytes
    files = [load_file(tmp_path / "first/adapter" / name) for name in ("adapter_model.safetensors", "head.safetensors")]
    assert detail.dense_bytes == sum(4 * tensor.numel() for file in files for tensor in file.values())
    assert detail.recipe["strategy"]["name"] == "fedsvd"
    for row, line in zip(rounds, lines_of(tmp_path / "first"), strict=True):
        assert (row.score, row.aggregation_error) == (line["evaluation"]["accuracy"], line["aggregation_error"])
        assert [cell.bytes_up for cell in cells if cell.round == row.round] == [c["bytes_up"] for c in line["clients"]]
    assert [event.kind for event in events] == ["run-finished", "run-started"]


def test_a_resumed_run_is_one_run_whose_rounds_are_there_once(recipe, tmp_path, url, store):
    class KilledError(Exception):
        pass

    def die(event):
        if isinstance(event, RoundFinished) and event.record.round == 2:
            raise KilledError("by hand")

    with pytest.raises(KilledError):
        run(recipe(), tmp_path / "run", url, die)
    with store.reading() as connection:
        (failed,) = read_runs(connection)
    assert (failed.state, failed.reason) == ("failed", "KilledError: by hand")
    run(recipe(), tmp_path / "run", url, resume=True)
    with store.reading() as connection:
        (whole,) = read_runs(connection)
        assert [row.round for row in read_rounds(connection, whole)] == [1, 2, 3]
        assert [event.kind for event in read_events(connection)] == [
            "run-finished", "run-resumed", "run-failed", "run-started",
        ]  # fmt: skip
    assert whole.bytes_up == sum(line["bytes_up"] for line in lines_of(tmp_path / "run"))


def test_the_reference_alone_is_a_run_for_each_client(recipe, tmp_path, url, store):
    run(recipe("mode=alone", "rounds.count=1"), tmp_path / "alone", url)
    with store.reading() as connection:
        names = {row.name for row in read_runs(connection)}
    assert names == {"alone/blue", "alone/green", "alone/red", "alone/white"}


def test_stop_after_this_round_ends_it_and_a_resume_goes_on(recipe, tmp_path, url, store):
    with pytest.raises(StoppedError, match=r"stopped by ann before round 2\. .* continue with --resume"):
        run(recipe(), tmp_path / "run", url, asks(store, "stop"))
    with store.reading() as connection:
        (stopped,) = read_runs(connection)
        (order,) = read_orders(connection, stopped)
    assert (stopped.state, stopped.rounds, order.outcome) == ("stopped", 1, "obeyed")
    assert run(recipe(), tmp_path / "run", url, resume=True)["rounds"] == 3


def test_stop_now_gives_the_round_up_and_changes_nothing(recipe, tmp_path, url, store, monkeypatch):
    monkeypatch.setattr("server.store.recorder.LOOK_S", 0.0)
    with pytest.raises(StoppedError, match="in the middle of a round, which was discarded"):
        run(recipe(), tmp_path / "run", url, asks(store, "stop-now", at=ClientAnswered, round_number=2))
    assert [line["round"] for line in lines_of(tmp_path / "run")] == [1]
    run(recipe(), tmp_path / "whole", None)
    run(recipe(), tmp_path / "run", url, resume=True)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").read_bytes() == (
        tmp_path / "whole/adapter/adapter_model.safetensors"
    ).read_bytes()


def test_a_paused_run_waits_until_it_is_told_to_go_on(recipe, tmp_path, url, store):
    seen: list[str] = []

    def resume_when_paused():
        while True:
            with store.reading() as connection:
                (row,) = read_runs(connection)
            if row.state == "paused":
                seen.append(f"paused after {row.rounds}")
                with store.writing() as connection:
                    place_order(connection, row.id, "resume", who="bob", at=time.time())
                return
            time.sleep(0.02)

    def watch(event):
        asks(store, "pause")(event)
        if isinstance(event, RoundStarted) and event.round == 1:
            threading.Thread(target=resume_when_paused, daemon=True).start()

    assert run(recipe(), tmp_path / "run", url, watch)["rounds"] == 3
    assert seen == ["paused after 1"]
    with store.reading() as connection:
        orders = read_orders(connection, find_run(connection, "run"))
    assert [(order.action, order.who, order.outcome) for order in orders] == [
        ("resume", "bob", "obeyed"), ("pause", "ann", "obeyed"),
    ]  # fmt: skip


def test_an_excluded_site_is_not_asked_from_the_next_round_on_nor_missed(recipe, tmp_path, url, store):
    run(recipe("rounds.count=6"), tmp_path / "run", url, asks(store, "exclude", argument="blue"))
    with store.reading() as connection:
        found = find_run(connection, "run")
        asked = {row.site: row.asked for row in read_run_sites(connection, found)}
        missing = [row.site for row in read_sites(connection) if row.missing_since is not None]
    assert asked == {"blue": 1, "green": 6, "red": 6, "white": 6}
    assert missing == []


def test_the_adapter_is_exported_in_the_middle_of_a_run(recipe, tmp_path, url, store):
    run(recipe(), tmp_path / "run", url, asks(store, "export"))
    with store.reading() as connection:
        (order,) = read_orders(connection, find_run(connection, "run"))
    assert order.outcome == str((tmp_path / "run/exports/round-0001").resolve())
    assert (tmp_path / "run/exports/round-0001/adapter_model.safetensors").exists()


def test_an_export_that_fails_is_answered_and_costs_the_run_nothing(recipe, tmp_path, url, store):
    def watch(event):
        (tmp_path / "run/exports").write_text("a file where a folder should be")
        asks(store, "export")(event)

    assert run(recipe(), tmp_path / "run", url, watch)["rounds"] == 3
    with store.reading() as connection:
        (order,) = read_orders(connection, find_run(connection, "run"))
    assert order.outcome is not None
    assert order.outcome.startswith("failed: ")


def test_a_site_that_stays_away_is_missing_once_and_then_back(recipe, tmp_path, url, store):
    def faults(node, message):
        number = json.loads(str(message.content.config_records["task"]["json"]))["round"]
        return Fault("drop") if node == NODES["red"] and number < 5 else None

    settings = recipe("rounds.count=5", "rounds.grace_s=0.01")
    run(settings, tmp_path / "run", url, faults=faults)
    with store.reading() as connection:
        told = [(e.kind, e.fields["site"], e.fields["round"]) for e in read_events(connection) if "site-" in e.kind]
        (red,) = (row for row in read_sites(connection) if row.site == "red")
    assert told == [("site-back", "red", 5), ("site-missing", "red", 3)]
    assert red.missing_since is None


def test_a_budget_that_is_nearly_spent_is_said_once(recipe, tmp_path, url, store, monkeypatch):
    monkeypatch.setattr("server.store.notices.NEARLY", 1e-9)
    run(recipe("privacy.noise_multiplier=5", "rounds.count=2"), tmp_path / "run", url)
    with store.reading() as connection:
        told = [event.fields["site"] for event in read_events(connection) if event.kind == "budget-nearly-spent"]
    assert sorted(told) == ["blue", "green", "red", "white"]


def broken(url: str) -> None:
    """No table that the loop writes to."""
    with sqlite3.connect(url) as connection:
        connection.execute("ALTER TABLE rounds RENAME TO elsewhere")


def mended(url: str) -> None:
    with sqlite3.connect(url) as connection:
        connection.execute("ALTER TABLE elsewhere RENAME TO rounds")


def test_a_store_that_breaks_costs_the_run_nothing_and_is_made_up_for(
    recipe, tmp_path, url, store, monkeypatch, caplog
):
    monkeypatch.setattr("server.store.recorder.RETRY_S", 0.0)

    def watch(event):
        if isinstance(event, RoundStarted) and event.round == 2:
            broken(url)
        if isinstance(event, RoundStarted) and event.round == 4:
            mended(url)

    run(recipe("rounds.count=4"), tmp_path / "run", url, watch)
    run(recipe("rounds.count=4"), tmp_path / "without", None)
    adapters = [tmp_path / name / "adapter/adapter_model.safetensors" for name in ("run", "without")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    with store.reading() as connection:
        found = find_run(connection, "run")
        assert [row.round for row in read_rounds(connection, found)] == [1, 2, 3, 4]
    assert found.state == "finished"
    assert found.bytes_up == sum(line["bytes_up"] for line in lines_of(tmp_path / "run"))
    assert "a record could not be written to the store; the run continues" in caplog.text


def test_a_store_that_cannot_be_written_from_the_start_is_left_alone(recipe, tmp_path, url, store):
    with store.writing() as connection:
        connection.execute(text("DROP TABLE orders"))
        connection.execute(text("DROP TABLE events"))
    assert run(recipe("rounds.count=2"), tmp_path / "run", url)["rounds"] == 2


def test_a_process_that_is_gone_is_seen(recipe, tmp_path, url, store):
    run(recipe("rounds.count=1"), tmp_path / "run", url)
    with store.writing() as connection:
        connection.execute(text("UPDATE runs SET state = 'running', pid = 999999999"))
        assert read_runs(connection)[0].state == "died"
        assert read_runs(connection, active_only=True) == []
        connection.execute(text("UPDATE runs SET kind = 'deployment'"))
        write_submission(tmp_path / "run", Submission(wanted="stopped"))
        assert read_runs(connection)[0].state == "stopped", "by fedlora server stop, which ends its process"
        connection.execute(text("UPDATE runs SET host = 'elsewhere', heard_at = 5"))
        assert read_runs(connection)[0].state == "lost"


def test_orders_of_an_earlier_process_are_void_when_a_run_goes_on(recipe, tmp_path, url, store):
    run(recipe("rounds.count=1"), tmp_path / "run", url)
    with store.writing() as connection:
        found = find_run(connection, "run")
        place_order(connection, found.id, "stop", who="ann", at=1.0)
        place_order(connection, found.id, "pause", who="ann", at=2.0)
    assert run(recipe("rounds.count=2"), tmp_path / "run", url, resume=True)["rounds"] == 2
    with store.reading() as connection:
        orders = read_orders(connection, find_run(connection, "run"))
    assert [(order.action, order.who) for order in orders] == [
        ("resume", "command line"),
        ("pause", "ann"),
        ("stop", "ann"),
    ]
    assert orders[-1].outcome == "no effect: the run had already ended"
