"""Where the dashboard may listen, what it refuses, and what its commands say."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.request import HTTPCookieProcessor, HTTPSHandler, build_opener

import pytest

from fedlora.settings import SettingsError
from server.dashboard.doors.access import Access, Role
from server.dashboard.doors.gate import LOOPBACK
from server.dashboard.inherited import address_of, inherited_socket
from server.dashboard.serve import BindConfig, audit_log, doors_for, is_loopback
from server.store.audit import read_events
from server.store.opening import open_store
from server.trust.certificates import issue_server_certificate, make_authority
from tests.server.dashboard.scene import dashboard, link_in, ours

PASSWORD = "correct horse battery"


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path / "store.access.json")


def test_this_machine_alone_needs_neither_user_nor_tls(access):
    doors = doors_for(BindConfig(), access)
    assert doors.hosts == LOOPBACK
    assert not doors.tls


def test_other_machines_need_a_user_and_tls_or_a_word(access, monkeypatch):
    monkeypatch.setattr("server.dashboard.doors.passwords.N", 2)
    with pytest.raises(SettingsError, match=r"there is no user yet; add one first: fedlora dashboard user add"):
        doors_for(BindConfig("0.0.0.0"), access)
    access.add_user("ada", Role.ADMIN, PASSWORD)
    with pytest.raises(SettingsError, match=r"would send passwords unencrypted; give --tls-cert and --tls-key"):
        doors_for(BindConfig("0.0.0.0"), access)
    assert doors_for(BindConfig("0.0.0.0", plain_http=True), access).hosts is None


def test_certificate_and_key_belong_together_and_the_key_is_private(access, tmp_path):
    with pytest.raises(SettingsError, match="must be given together"):
        doors_for(BindConfig(tls_cert=tmp_path / "cert.pem"), access)
    key = tmp_path / "key.pem"
    key.write_text("key")
    key.chmod(0o644)
    with pytest.raises(SettingsError, match="must be 0600"):
        doors_for(BindConfig(tls_cert=tmp_path / "cert.pem", tls_key=key), access)
    key.chmod(0o600)
    doors = doors_for(BindConfig(tls_cert=tmp_path / "cert.pem", tls_key=key), access)
    assert doors.tls
    assert doors.cookie.startswith("__Host-")


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("a.example", False)],
)
def test_what_is_this_machine(host, local):
    assert is_loopback(host) == local


def test_addresses_are_written_as_browsers_want_them():
    assert BindConfig("::1", 1).url == "http://[::1]:1"
    assert BindConfig(tls_cert=Path("c"), tls_key=Path("k")).url == "https://127.0.0.1:8470"


def test_logins_are_in_the_audit_log(tmp_path):
    store = open_store(tmp_path / "store.db")
    audit_log(store)("ada", "login", {"address": "127.0.0.1"})
    with store.reading() as connection:
        (event,) = read_events(connection)
    assert (event.who, event.kind, event.fields["address"]) == ("ada", "login", "127.0.0.1")
    store.close()


def test_users_and_tokens_by_command(tmp_path):
    def run(*words: str, password: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedlora", "dashboard", *words, "--store", str(tmp_path / "store.db")]
        return subprocess.run(command, input=password, capture_output=True, text=True, check=False)

    assert run("user", "add", "ada", "--role", "operator", password=PASSWORD + "\n").returncode == 0
    short = run("user", "add", "bob", password="short\n")
    assert short.returncode == 2
    assert "12 to 256 characters; this one has 5" in short.stderr
    secret = run("token", "add", "ci", "--days", "1").stdout.strip()
    access = Access(tmp_path / "store.access.json")
    assert access.by_password("ada", PASSWORD).role == Role.OPERATOR
    assert access.by_token(secret).name == "token:ci"
    assert "operator" in run("user", "list").stdout


def test_a_handed_over_socket_is_one_tcp_port_meant_for_this_process():
    here = {"LISTEN_PID": str(os.getpid())}
    assert inherited_socket({}) is None
    assert inherited_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    with pytest.raises(SettingsError, match="systemd passed 2 sockets"):
        inherited_socket({**here, "LISTEN_FDS": "2"})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert address_of(listener) == listener.getsockname()
    with (
        socket.socket(socket.AF_UNIX) as local,
        pytest.raises(SettingsError, match=r"not a TCP port; write ListenStream="),
    ):
        address_of(local)


@pytest.mark.slow
def test_on_a_port_that_is_handed_over_it_needs_no_network_at_all(tmp_path):
    """As `PrivateNetwork=yes` in its unit: not even loopback, where the coordinator's Control API is."""
    alone = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode != 0:
        pytest.skip("this machine lets nobody make a network namespace")
    take = 'exec 3<&"$0"; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
    command = [sys.executable, "-u", "-m", "fedlora", "dashboard", "--store", str(tmp_path / "store.db")]
    with socket.create_server(("127.0.0.1", 0)) as listener, (tmp_path / "log").open("wb") as output:
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [*alone, "bash", "-c", take, str(listener.fileno()), *command],
            pass_fds=[listener.fileno()], stdout=output, stderr=output, cwd=tmp_path, env=ours(),
        )  # fmt: skip
        try:
            link = link_in(tmp_path / "log", process, listener.getsockname()[1])
            with build_opener(HTTPCookieProcessor(CookieJar())).open(link, timeout=60) as answer:
                assert answer.status == 200
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.mark.slow
def test_over_tls_it_answers_with_its_certificate_and_a_cookie_for_tls_alone(tmp_path):
    pki = tmp_path / "pki"
    pki.mkdir()
    make_authority(pki, coordinator="net")
    issue_server_certificate(pki, hosts=["localhost"])
    trusted = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    with dashboard(tmp_path, "--tls-cert", str(pki / "server.pem"), "--tls-key", str(pki / "server.pem")) as scene:
        opener = build_opener(HTTPSHandler(context=trusted), HTTPCookieProcessor(cookies := CookieJar()))
        with opener.open(scene.link, timeout=60) as answer:
            assert answer.headers["Strict-Transport-Security"]
            assert answer.status == 200
    (session,) = [cookie for cookie in cookies if cookie.name == "__Host-fedlora"]
    assert session.secure
    assert session.has_nonstandard_attr("HttpOnly")
