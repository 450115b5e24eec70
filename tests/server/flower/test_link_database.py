"""A damaged superlink.db is given up as a lost one is; one that is whole, or only busy, is not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from server.flower.link_database import give_up_if_damaged, is_damaged


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "superlink.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE nodes (id INTEGER PRIMARY KEY, key TEXT)")
        connection.executemany("INSERT INTO nodes (key) VALUES (?)", [(f"key {n}" * 50,) for n in range(500)])
    connection.close()
    return path


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_a_whole_database_stays(database):
    assert not give_up_if_damaged(database)
    assert database.exists()


def test_no_database_is_not_a_damaged_one(tmp_path):
    assert not is_damaged(tmp_path / "superlink.db")


@pytest.mark.parametrize(("at", "content"), [(0, b"x" * 100), (8192, b"\xff" * 4096), (4096, b"\x00" * 8192)])
def test_malformed_pages_cost_the_database_and_its_journal(database, at, content):
    journal = database.with_name("superlink.db-wal")
    overwrite(database, at, content)
    journal.write_bytes(b"")
    assert give_up_if_damaged(database)
    assert not database.exists()
    assert not journal.exists()


def test_a_cut_database_is_damaged(database):
    with database.open("r+b") as file:
        file.truncate(10_000)
    assert is_damaged(database)


def test_a_locked_database_is_not_damaged(database, monkeypatch):
    monkeypatch.setattr("server.flower.link_database.WAIT_S", 0.1)
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    assert not is_damaged(database)
    holder.close()
