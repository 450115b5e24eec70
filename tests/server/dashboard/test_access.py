"""Users, tokens, sessions and attempts: what the guarantees of access.py, sessions.py and passwords.py promise."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from fedlora.settings import SettingsError
from server.dashboard.doors import sessions as limits
from server.dashboard.doors.access import Access, Principal, Role, access_path
from server.dashboard.doors.passwords import hash_password, password_matches
from server.dashboard.doors.sessions import LoginLimit, Sessions

PASSWORD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path / "store.access.json")


def test_each_role_covers_those_before_it():
    assert [[have.covers(need) for need in Role] for have in Role] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_a_password_is_stored_as_a_salted_scrypt_hash():
    stored = hash_password(PASSWORD)
    assert stored.startswith("scrypt$32768$8$3$")
    assert PASSWORD not in stored
    assert stored != hash_password(PASSWORD)
    assert password_matches(PASSWORD, stored)
    assert not password_matches(PASSWORD + "x", stored)
    assert not password_matches("\0" * 32, None)


@pytest.mark.parametrize("password", ["short", "x" * 257])
def test_a_password_of_a_bad_length_is_refused(password):
    with pytest.raises(SettingsError, match=f"12 to 256 characters; this one has {len(password)}"):
        hash_password(password)


def test_the_file_is_private_and_holds_no_secret(access):
    access.add_user("ada", Role.VIEWER, PASSWORD)
    token = access.add_token("grafana", Role.VIEWER, days=None)
    assert access.path.stat().st_mode & 0o777 == 0o600
    text = access.path.read_text()
    assert PASSWORD not in text
    assert token not in text
    assert token.removeprefix("fedlora_") not in text


def test_a_file_that_others_can_read_lets_nobody_in(access):
    access.add_user("ada", Role.ADMIN, PASSWORD)
    access.path.chmod(0o644)
    with pytest.raises(SettingsError, match="must be 0600"):
        Access(access.path).stamp("ada")


def test_a_damaged_file_lets_nobody_in(access):
    access.add_user("ada", Role.ADMIN, PASSWORD)
    access.path.write_text(json.dumps({"users": {"ada": {"role": "owner"}}}))
    with pytest.raises(SettingsError, match=r"is damaged; remove it and add users again"):
        Access(access.path).stamp("ada")


def test_a_change_by_another_process_is_seen_at_once(access):
    other = Access(access.path)
    access.add_user("ada", Role.VIEWER, PASSWORD)
    before = other.stamp("ada")
    assert other.by_name("ada", before) == Principal("ada", Role.VIEWER)
    access.add_user("ada", Role.OPERATOR, PASSWORD + "!")
    assert other.by_name("ada", before) is None
    assert other.by_name("ada", other.stamp("ada")) == Principal("ada", Role.OPERATOR)
    access.remove_user("ada")
    assert other.by_name("ada", before) is None


def test_a_token_has_a_role_an_end_and_can_be_removed(access, monkeypatch):
    secret = access.add_token("ci", Role.OPERATOR, days=1)
    assert access.by_token(secret) == Principal("token:ci", Role.OPERATOR)
    assert access.by_token(secret + "x") is None
    assert access.by_token("") is None

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) + timedelta(days=1)

    with monkeypatch.context() as patch:
        patch.setattr("server.dashboard.doors.access.datetime", Later)
        assert access.by_token(secret) is None
    access.remove_token("ci")
    assert access.by_token(secret) is None


def test_names_that_are_there_or_are_not_are_said(access):
    access.add_token("ci", Role.VIEWER, days=None)
    with pytest.raises(SettingsError, match=r"there is a token 'ci'; remove it first: fedlora dashboard token rm ci"):
        access.add_token("ci", Role.VIEWER, days=None)
    with pytest.raises(SettingsError, match=r"there is no user 'bob'; there are: none"):
        access.remove_user("bob")
    with pytest.raises(SettingsError, match=r"user 'Bob Smith' must be"):
        access.add_user("Bob Smith", Role.VIEWER, PASSWORD)


def test_the_file_lies_beside_a_sqlite_store_and_must_be_named_for_others():
    assert access_path("sqlite:////data/fedlora.db").as_posix() == "/data/fedlora.access.json"
    with pytest.raises(SettingsError, match="--access"):
        access_path("postgresql://db/fedlora")
    assert access_path("runs/fedlora.db").as_posix() == "runs/fedlora.access.json"
    with pytest.raises(SettingsError, match="is not a URL"):
        access_path("://runs")


def test_a_session_ends_when_it_is_idle_and_after_its_longest_time():
    clock = Clock()
    sessions = Sessions(clock)
    secret = sessions.open("ada")
    for _ in range(11):
        clock.now += limits.IDLE_S - 1
        assert sessions.find(secret).user == "ada"
    clock.now = 1000.0 + limits.LONGEST_S
    assert sessions.find(secret) is None
    secret = sessions.open("ada")
    clock.now += limits.IDLE_S
    assert sessions.find(secret) is None


def test_a_session_that_is_closed_or_was_never_opened_is_none():
    sessions = Sessions()
    secret = sessions.open("ada")
    sessions.close(secret)
    assert sessions.find(secret) is None
    assert sessions.find("") is None


def test_sessions_are_bounded_and_the_longest_unused_goes(monkeypatch):
    monkeypatch.setattr(limits, "MOST_SESSIONS", 2)
    clock = Clock()
    sessions = Sessions(clock)
    opened = []
    for _ in range(3):
        clock.now += 1
        opened.append(sessions.open("ada"))
    assert [sessions.find(secret) is not None for secret in opened] == [False, True, True]


def test_a_link_works_once_and_a_new_one_voids_the_old():
    sessions = Sessions()
    assert not sessions.redeem("")
    first = sessions.new_link()
    second = sessions.new_link()
    assert [sessions.redeem(secret) for secret in (first, second, second)] == [False, True, False]


def test_an_address_waits_after_five_failures_and_a_user_after_twenty():
    clock = Clock()
    limit = LoginLimit(clock)
    for number in range(limits.TRIES):
        assert limit.wait_s("10.0.0.1", "ada") == 0
        limit.failed("10.0.0.1", f"user{number}")
    assert limit.wait_s("10.0.0.1", "ada") == limits.WINDOW_S
    assert limit.wait_s("10.0.0.2", "ada") == 0
    for number in range(limits.TRIES_A_USER):
        limit.failed(f"10.1.0.{number}", "ada")
    assert limit.wait_s("10.0.0.2", "ada") == limits.WINDOW_S
    clock.now += limits.WINDOW_S
    assert limit.wait_s("10.0.0.2", "ada") == limit.wait_s("10.0.0.1", "ada") == 0


def test_a_success_clears_what_an_address_did():
    limit = LoginLimit(Clock())
    for _ in range(limits.TRIES):
        limit.failed("10.0.0.1", "ada")
    limit.succeeded("10.0.0.1", "ada")
    assert limit.wait_s("10.0.0.1", "ada") == 0


def test_a_flood_of_names_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "MOST_KEYS", 10)
    limit = LoginLimit(Clock())
    for number in range(100):
        limit.failed(f"10.0.0.{number}", f"user{number}")
    assert len(limit._failures) <= 13
