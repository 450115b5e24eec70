"""Trust decisions: what is replaced is shown, a person is asked, nobody is asked means no, and the audit log knows."""

from __future__ import annotations

import os
import pwd

import pytest
import yaml
from typer.testing import CliRunner

from client.deployment.commands import app as client
from client.deployment.enroll import accept, ask, ask_with_new_key
from fedlora.deployment.asking import agree
from fedlora.deployment.enrolment import certificate_fingerprint, fingerprint
from fedlora.settings import SettingsError
from server.commands.admin import admin
from server.store.audit import read_events, verify_events
from server.store.opening import open_existing
from server.trust.certificates import authorities
from server.trust.provision import approve, initialise, read_registry
from server.trust.told import tell, tell_waiting


@pytest.fixture
def settings(tmp_path):
    return initialise(tmp_path / "server", name="net", address="localhost:1")


def type_(app, *words, answer: bool | None = None, monkeypatch=None):
    """As an administrator would; `answer`: at a keyboard, to the question that is asked."""
    if answer is not None:
        monkeypatch.setattr("fedlora.deployment.asking.sys", Keyboard)
        monkeypatch.setattr("fedlora.deployment.asking.typer.confirm", lambda *_, **__: answer)
    return CliRunner().invoke(app, [str(word) for word in words])


class Keyboard:
    """A terminal that somebody sits at."""

    class stdin:  # noqa: N801  # in place of sys.stdin
        @staticmethod
        def isatty() -> bool:
            return True


def events(settings) -> list[tuple[str, str | None]]:
    with open_existing(settings.store_url).reading() as connection:
        assert verify_events(connection) is None
        return [(event.kind, event.fields.get("site")) for event in reversed(read_events(connection))]


def config(settings) -> tuple[str, str]:
    return "--config", str(settings.folder / "server.yaml")


def test_a_key_is_not_replaced_where_nobody_can_be_asked(settings, tmp_path):
    old, folder = approve(settings, ask(tmp_path / "a", site="a")), tmp_path / "a"
    request = ask_with_new_key(folder, site="a")
    ran = type_(admin, "approve", folder / "request.json", *config(settings), "--out", tmp_path / "grant.json")
    assert isinstance(ran.exception, SettingsError)
    assert "Replace the key of a?" in str(ran.exception)
    assert old.key in ran.output
    assert fingerprint(request.public_key) in ran.output
    assert fingerprint(read_registry(settings).sites["a"].public_key) == old.key
    assert not (tmp_path / "grant.json").exists()


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked_before_a_key_is_replaced(settings, tmp_path, monkeypatch, answer):
    old = approve(settings, ask(tmp_path / "a", site="a")).key
    new = fingerprint(ask_with_new_key(tmp_path / "a", site="a").public_key)
    words = ("approve", tmp_path / "a" / "request.json", *config(settings), "--out", tmp_path / "grant.json")
    type_(admin, *words, answer=answer, monkeypatch=monkeypatch)
    assert fingerprint(read_registry(settings).sites["a"].public_key) == (new if answer else old)


def test_a_fingerprint_that_was_told_by_telephone_is_compared_and_answers_the_question(settings, tmp_path):
    old = approve(settings, ask(tmp_path / "a", site="a")).key
    new = fingerprint(ask_with_new_key(tmp_path / "a", site="a").public_key)
    words = ("approve", tmp_path / "a" / "request.json", *config(settings), "--out", tmp_path / "grant.json")
    ran = type_(admin, *words, "--fingerprint", old, "--yes")
    assert "nothing was changed" in str(ran.exception)
    assert fingerprint(read_registry(settings).sites["a"].public_key) == old
    assert type_(admin, *words, "--fingerprint", new).exit_code == 0
    assert fingerprint(read_registry(settings).sites["a"].public_key) == new


def test_a_first_approval_compares_a_fingerprint_that_is_given(settings, tmp_path):
    ask(tmp_path / "a", site="a")
    words = ("approve", tmp_path / "a" / "request.json", *config(settings), "--out", tmp_path / "grant.json")
    assert "nothing was changed" in str(type_(admin, *words, "--fingerprint", "SHA256:x").exception)
    assert read_registry(settings).sites == {}
    assert type_(admin, *words).exit_code == 0


def test_another_authority_is_not_trusted_without_a_word(settings, tmp_path):
    """Whoever carries a grant could bring their own coordinator's."""
    site, other = tmp_path / "a", initialise(tmp_path / "other", name="net", address="elsewhere:1")
    accept(site, approve(settings, ask(site, site="a")))
    trusted = (site / "ca.crt").read_bytes()
    (tmp_path / "grant.json").write_text(approve(other, ask(site, site="a")).model_dump_json())
    ran = type_(client, "accept", site, tmp_path / "grant.json")
    assert "Trust the other one from now on?" in str(ran.exception)
    found = [certificate_fingerprint(authorities(one.pki)[0]) for one in (settings, other)]
    assert all(one in ran.output for one in found)
    assert (site / "ca.crt").read_bytes() == trusted
    ran = type_(client, "accept", site, tmp_path / "grant.json", "--fingerprint", found[1].replace(" ", ":").upper())
    assert ran.exit_code == 0
    assert "coordinator: localhost:1; the grant's address is elsewhere:1" in ran.output
    assert yaml.safe_load((site / "client.yaml").read_text())["coordinator"] == "localhost:1"  # a person's to change


def test_a_first_grant_and_one_of_the_same_authority_ask_nothing(settings, tmp_path):
    site = tmp_path / "a"
    (tmp_path / "grant.json").write_text(approve(settings, ask(site, site="a")).model_dump_json())
    for _ in range(2):
        assert type_(client, "accept", site, tmp_path / "grant.json").exit_code == 0


def test_what_was_decided_on_the_command_line_is_in_the_audit_log(settings, tmp_path):
    ask(tmp_path / "a", site="a")
    approving = ("approve", tmp_path / "a" / "request.json", *config(settings), "--out", tmp_path / "grant.json")
    type_(admin, *approving)
    type_(admin, *approving)
    ask_with_new_key(tmp_path / "a", site="a")
    type_(admin, *approving, "--yes")
    type_(admin, "revoke", "a", *config(settings))
    type_(admin, "renew", *config(settings))
    type_(admin, "roll-authority", *config(settings))
    type_(admin, "roll-authority", "--finish", "--yes", *config(settings))
    assert events(settings) == [
        ("site-approved", "a"), ("site-granted-again", "a"), ("site-key-replaced", "a"), ("site-revoked", "a"),
        ("certificate-renewed", None), ("authority-added", None), ("authority-replaced", None),
    ]  # fmt: skip
    with open_existing(settings.store_url).reading() as connection:
        whos = {event.who for event in read_events(connection)}
    assert whos == {f"command line: {os.environ.get('SUDO_USER') or pwd.getpwuid(os.getuid()).pw_name}"}


def test_a_store_that_is_away_keeps_no_site_in_and_loses_no_event(settings, tmp_path):
    approve(settings, ask(tmp_path / "a", site="a"))
    away = settings.model_copy(update={"store": "postgresql://fedlora@127.0.0.1:1/fedlora"})
    assert not tell(away, "site-revoked", site="a")
    assert not tell(away, "site-revoked", site="b")
    assert (settings.folder / "untold.jsonl").exists()
    assert tell_waiting(settings)
    assert events(settings) == [("site-revoked", "a"), ("site-revoked", "b")]
    assert not (settings.folder / "untold.jsonl").exists()
    assert tell_waiting(settings)
    assert len(events(settings)) == 2


def test_a_line_that_was_cut_short_costs_no_other_event(settings):
    (settings.folder / "untold.jsonl").write_text('{"kind": "site-rev')
    assert tell(settings, "certificate-renewed")
    assert events(settings) == [("certificate-renewed", None)]


def test_without_a_question_and_a_fingerprint_nothing_is_asked():
    agree(None, found="SHA256:a", expected=None, yes=False)
    with pytest.raises(SettingsError, match="There is no terminal to ask at"):
        agree("Really?", found="SHA256:a", expected=None, yes=False)


@pytest.mark.parametrize("command", ["init", "enroll"])
def test_a_folder_that_was_there_keeps_its_mode(tmp_path, command):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o755)
    if command == "init":
        initialise(folder, name="net", address="x:1")
    else:
        ask(folder, site="a")
        ask_with_new_key(folder, site="a")
    assert folder.stat().st_mode & 0o777 == 0o755
