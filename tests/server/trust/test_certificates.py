"""Certificates: renewed whole or not at all, never longer than their authority, which can be replaced meanwhile."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from client.deployment.enroll import accept, ask, ask_with_new_key
from client.flower.identity import certificate_for, load_node_key
from fedlora.deployment.environment import join_address, split_address
from fedlora.settings import SettingsError
from server.trust.authority import begin_roll, finish_roll, is_rolling, newest_signer
from server.trust.certificates import (
    authorities,
    days_left,
    issue_server_certificate,
    join_old_pair,
    make_authority,
    server_certificate,
    signer_in,
    site_certificate,
    stamp,
)
from server.trust.provision import approve, initialise
from server.trust.renewal import renew_if_due, require_lasting_authority
from server.trust.rolling import begin, finish_after_asking, still_to_grant
from tests.faults import Killed, at_every_step, full


@pytest.fixture
def settings(tmp_path):
    return initialise(tmp_path / "server", name="net", address="fed.example:9092")


def fits(pki: Path) -> bool:
    """Whether key and certificate in server.pem belong together and its authority is trusted."""
    pem = (pki / "server.pem").read_bytes()
    key = serialization.load_pem_private_key(pem, password=None)
    certificate = server_certificate(pki)
    certificate.verify_directly_issued_by(next(one for one in authorities(pki) if one.subject == certificate.issuer))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pki / "server.pem")
    return key.public_key() == certificate.public_key()


@pytest.mark.parametrize("fault", [full, Killed])
def test_key_and_certificate_are_renewed_together_or_not_at_all(settings, monkeypatch, fault):
    serials = {server_certificate(settings.pki).serial_number}
    for step in at_every_step(monkeypatch, lambda: issue_server_certificate(settings.pki, hosts=["x"]), fault):
        assert fits(settings.pki), step
        serials.add(server_certificate(settings.pki).serial_number)
    assert fits(settings.pki)
    assert len(serials) > 1


def test_a_renewal_that_fails_is_said_and_tried_again(settings, monkeypatch):
    issue_server_certificate(settings.pki, hosts=["x"], days=3)

    def renew() -> None:
        with suppress(SettingsError):
            renew_if_due(settings)

    for _ in at_every_step(monkeypatch, renew, full):
        assert fits(settings.pki)
    assert days_left(settings.pki) > 300


def test_a_pair_of_the_first_version_becomes_one_file(settings):
    pem = (settings.pki / "server.pem").read_bytes()
    end = pem.index(b"-----BEGIN CERTIFICATE")
    (settings.pki / "server.pem").unlink()
    for name, content in (("server.key", pem[:end]), ("server.crt", pem[end:])):
        (settings.pki / name).write_bytes(content)
        (settings.pki / name).chmod(0o600)
    join_old_pair(settings.pki)
    assert (settings.pki / "server.pem").read_bytes() == pem
    issue_server_certificate(settings.pki, hosts=["x"])
    assert not (settings.pki / "server.key").exists()


def test_no_certificate_outlives_its_authority(tmp_path):
    make_authority(tmp_path, coordinator="net", days=20)
    end = authorities(tmp_path)[0].not_valid_after_utc
    issue_server_certificate(tmp_path, hosts=["x"])
    assert server_certificate(tmp_path).not_valid_after_utc == end
    public = ask(tmp_path / "a", site="a").public_key
    pem = site_certificate(signer_in(tmp_path), site="a", public_key=public)
    assert x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc == end


def test_an_authority_that_ended_signs_nothing_and_says_what_to_do(tmp_path):
    make_authority(tmp_path, coordinator="net", days=-1)
    with pytest.raises(SettingsError, match="roll-authority"):
        issue_server_certificate(tmp_path, hosts=["x"])


def test_near_its_authoritys_end_a_certificate_is_not_renewed_at_every_look(settings):
    make_authority(settings.pki, coordinator="net", days=20)
    issue_server_certificate(settings.pki, hosts=["x"])
    before = stamp(settings.pki)
    renew_if_due(settings)
    assert stamp(settings.pki) == before  # each renewal would restart the SuperLink
    with pytest.raises(SettingsError, match="the authority expires"):
        require_lasting_authority(settings)


def test_a_long_name_of_coordinator_or_site_is_no_obstacle(tmp_path):
    settings = initialise(tmp_path / "server", name="n" * 63, address="x:1")
    site = "s" * 63
    accept(tmp_path / "site", approve(settings, ask(tmp_path / "site", site=site)))


@pytest.mark.parametrize("address", ["[2001:db8::1]:9092", "[::1]:1", "192.0.2.1:9092", "fed.example:9092"])
def test_an_address_of_either_kind_is_listened_at_and_in_the_certificate(tmp_path, address):
    settings = initialise(tmp_path / "server", name="net", address=address)
    host, port = split_address(address)
    assert join_address(host, port) == address
    assert settings.listen == (f"[::]:{port}" if ":" in host else f"0.0.0.0:{port}")
    names = server_certificate(settings.pki).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


@pytest.mark.parametrize("address", ["::1:9092", "2001:db8::1:9092", "[::1]", "[fed.example]:1", "a b:1", "x:0", "x:"])
def test_an_address_that_could_be_read_in_two_ways_is_refused(address):
    with pytest.raises(SettingsError, match=r"\[2001:db8::1\]:9092"):
        split_address(address)


# Replacing the authority


def enrolled(settings, folder: Path) -> None:
    accept(folder, approve(settings, ask(folder, site="a")))


def trusts(site: Path, pki: Path) -> bool:
    """Whether the site takes the coordinator's certificate for good."""
    certificate = server_certificate(pki)
    trusted = x509.load_pem_x509_certificates((site / "ca.crt").read_bytes())
    return any(one.subject == certificate.issuer for one in trusted)


def is_trusted(site: Path, pki: Path) -> bool:
    """And the coordinator the site's."""
    own = certificate_for(load_node_key(site / "node.key").public_key(), site / "site.crt")
    return own is not None and any(one.subject == own.issuer for one in authorities(pki))


def test_an_authority_is_replaced_while_sites_go_on(settings, tmp_path):
    old, site = authorities(settings.pki)[0], tmp_path / "a"
    enrolled(settings, site)
    begin(settings)
    assert still_to_grant(settings) == ["a"]
    assert trusts(site, settings.pki)  # before its new grant
    assert is_trusted(site, settings.pki)
    issue_server_certificate(settings.pki, hosts=["x"])  # a renewal meanwhile is the old authority's
    assert trusts(site, settings.pki)
    enrolled(settings, site)
    assert still_to_grant(settings) == []
    assert trusts(site, settings.pki)  # after it
    finish_after_asking(settings, yes=True)
    assert [one.subject for one in authorities(settings.pki)] != [old.subject]
    assert len(authorities(settings.pki)) == 1
    assert trusts(site, settings.pki)
    assert is_trusted(site, settings.pki)
    assert fits(settings.pki)


def test_finishing_with_sites_that_took_no_grant_asks_first(settings, tmp_path):
    enrolled(settings, tmp_path / "a")
    begin(settings)
    with pytest.raises(SettingsError, match="will lose the connection: a"):
        finish_after_asking(settings, yes=False)
    assert is_rolling(settings.pki)


@pytest.mark.parametrize("fault", [full, Killed])
def test_a_roll_that_is_killed_anywhere_is_begun_and_finished_again(settings, monkeypatch, fault):
    pki, old = settings.pki, authorities(settings.pki)[0]

    def begin_again() -> None:
        if not is_rolling(pki):
            begin_roll(pki, coordinator="net")

    for step in at_every_step(monkeypatch, begin_again, fault):
        assert fits(pki), step
        assert signer_in(pki).certificate == old, step
    assert newest_signer(pki).certificate != old
    for step in at_every_step(monkeypatch, lambda: _finish(pki), fault):
        assert fits(pki), step
    assert authorities(pki) == [signer_in(pki).certificate]
    assert fits(pki)


def _finish(pki: Path) -> None:
    if len(authorities(pki)) > 1:
        finish_roll(pki, hosts=["x"])


def test_a_roll_is_not_begun_twice_nor_finished_before_it_began(settings):
    with pytest.raises(SettingsError, match="create it first"):
        finish_roll(settings.pki, hosts=["x"])
    begin_roll(settings.pki, coordinator="net")
    with pytest.raises(SettingsError, match="already exists"):
        begin_roll(settings.pki, coordinator="net")


# At the site


@pytest.mark.parametrize("fault", [full, Killed])
def test_a_sites_key_and_certificate_change_together_or_not_at_all(settings, tmp_path, monkeypatch, fault):
    site = tmp_path / "a"
    enrolled(settings, site)
    keys = set()
    grant = approve(settings, ask_with_new_key(site, site="a"))
    for step in at_every_step(monkeypatch, lambda: accept(site, grant), fault):
        assert is_trusted(site, settings.pki), step
        keys.add((site / "node.key").read_bytes())
    assert is_trusted(site, settings.pki)
    assert not (site / "node.key.next").exists()
    assert len(keys) == 2


@pytest.mark.parametrize(("days", "said"), [(30, "this clock says"), (-4000, "ended on")])
def test_a_grant_that_does_not_hold_by_this_clock_is_refused(settings, tmp_path, monkeypatch, days, said):
    import client.deployment.enroll as module

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) - timedelta(days=days)

    grant = approve(settings, ask(tmp_path / "a", site="a"))
    monkeypatch.setattr(module, "datetime", Clock)
    with pytest.raises(SettingsError, match=said):
        accept(tmp_path / "a", grant)
    assert not (tmp_path / "a" / "ca.crt").exists()
