"""Attacks on a running deployment, each of which must fail while honest sites go on training."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from client.deployment.agent import free_port
from client.deployment.enroll import accept, ask, ask_with_new_key
from client.flower.deregister import varint
from client.flower.fleet import signed as fleet_signed
from client.flower.identity import channel_credentials
from fedlora.deployment.environment import flower_environment, split_address
from fedlora.processes.sockets import accepts
from server.deployment.doctor import outside_addresses
from server.flower.admitted import as_pem
from server.flower.control import Control, ControlError
from server.runs.bundle import write_bundle
from server.trust.certificates import signer_in, site_certificate
from server.trust.provision import approve, read_registry, revoke
from simulations.data.site_files import write_site_files
from simulations.deployment import LET_IN, Deployment, make_deployment
from tests.deploy.listening import LOOPBACK, listeners
from tests.federations import save_messages, save_tiny_model, tiny_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GIANT = 64 * 1024 * 1024
LABELS = ("bad", "good")
LONG = ["rounds.deadline_s=120", "rounds.wait_s=120", "rounds.count=1", "rounds.grace_s=20"]

EVIL_PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "evil"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "somebody"
[tool.flwr.app.components]
serverapp = "evil:server"
clientapp = "evil:client"
[tool.flwr.app.config]
answers = "{answers}"
marker = "{marker}"
"""

EVIL = """\
import json, pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
server = ServerApp()
client = ClientApp()
@client.train()
def train(message, context):
    pathlib.Path(context.run_config["marker"]).write_text("code from the bundle ran")
    return Message(RecordDict({"r": ConfigRecord({"x": 1})}), reply_to=message)
@server.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    waiting = set(grid.push_messages([Message(RecordDict({"a": ConfigRecord({"x": 1})}), n, "train") for n in nodes]))
    said = []
    for _ in range(200):
        for reply in grid.pull_messages(list(waiting)):
            waiting.discard(reply.metadata.reply_to_message_id)
            said.append(reply.error.reason if reply.has_error() else "ran")
        if not waiting:
            break
        time.sleep(0.3)
    pathlib.Path(context.run_config["answers"]).write_text(json.dumps(said))
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("attacked")
    recipe = tiny_recipe(save_tiny_model(folder / "model"), save_messages(folder / "messages.csv"))
    write_site_files(recipe, folder / "data")
    made = make_deployment(
        folder, sites=("blue", "green"), data=folder / "data", labels=LABELS, policy={"require_privacy": False}
    )
    with made:
        made.start_all()
        for name in ("server", *made.sites):
            made.wait_ready(name)
        for site in made.sites:
            made.wait_let_in(site)
        yield made


def train_a_round(deployment: Deployment, name: str, *, clients: int) -> list[str]:
    """A run of one round goes well; returns who trained."""
    recipe = tiny_recipe(str(deployment.folder / "model"), "unused", *LONG, f"rounds.min_clients={clients}")
    folder = deployment.submit(recipe, name=name)
    deployment.wait_run(folder, timeout_s=240)
    record = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    return sorted(client["client"] for client in record["clients"] if client["outcome"] == "trained")


def wait_for(condition, *, timeout_s: float, what: str) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.5)


def supernode(deployment: Deployment, key: Path, certificate: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """A SuperNode with a key and a certificate of the attacker's choice, until it gives up."""
    return subprocess.run(
        [
            sys.executable, "-m", "client.flower.supernode", str(certificate), str(key),
            "--superlink", deployment.settings.address,
            "--root-certificates", str(deployment.settings.pki / "ca.crt"),
            "--isolation", "process", "--port", str(free_port()), "--max-retries", "1",
        ],
        env={**os.environ, **flower_environment(home)}, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def call(
    deployment: Deployment,
    method: str,
    request: bytes,
    key: Path,
    certificate: Path,
    metadata: Sequence[tuple[str, str | bytes]],
) -> bytes:
    """One call of the Fleet API by hand."""
    settings = deployment.settings
    credentials = channel_credentials((settings.pki / "ca.crt").read_bytes(), key, certificate)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.secure_channel(settings.address, credentials, options=options) as channel:
        made = channel.unary_unary(f"/flwr.proto.Fleet/{method}", request_serializer=bytes)
        return made(request, metadata=tuple(metadata), timeout=60)


def activation(public_key: bytes) -> bytes:
    """A serialized ActivateNodeRequest, for an hour."""
    return ActivateNodeRequest(public_key=public_key, heartbeat_interval=3600.0).SerializeToString()


def signed(key: Path, timestamp: str, *, shown: bytes | None = None) -> list[tuple[str, str | bytes]]:
    """As a SuperNode proves which key is its own; `shown`: with another key than the one that signs."""
    metadata = dict(fleet_signed(key, timestamp))
    return [*({**metadata, "flwr-public-key-bin": shown} if shown else metadata).items()]


def test_a_key_that_nobody_approved_does_not_get_in(deployment, tmp_path):
    request = ask(tmp_path, site="stranger")
    # own.crt: a certificate of the authority for a key that the registry does not have
    signer = signer_in(deployment.settings.pki)
    (tmp_path / "own.crt").write_text(site_certificate(signer, site="stranger", public_key=request.public_key))

    def let_in(certificate: str) -> bool:
        home = tmp_path / f"home-{certificate}"
        ran = supernode(deployment, tmp_path / "node.key", tmp_path / certificate, home)
        return LET_IN in ran.stdout + ran.stderr

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(let_in, ("none.crt", "own.crt"))) == [False, False]


def test_with_a_sites_public_key_a_stranger_does_not_take_its_place(deployment, tmp_path):
    """The key goes by mail: Flower alone would let anybody activate its node, and refuse the site's own SuperNode."""
    settings, site = deployment.settings, deployment.folder / "green"
    node = read_registry(settings).sites["green"].node
    deployment.stop_one("green")
    wait_for(lambda: Control(settings).nodes()[node].status == "offline", timeout_s=60, what="green is still online")
    stranger, activate = tmp_path / "stranger", activation(as_pem(read_registry(settings).sites["green"].public_key))
    ask(stranger, site="stranger")
    made = site_certificate(signer_in(settings.pki), site="x", public_key=ask(tmp_path / "x", site="x").public_key)
    (tmp_path / "other.crt").write_text(made)  # of the authority, but for another key
    for key, certificate in (
        (stranger / "node.key", tmp_path / "none.crt"),
        (tmp_path / "x" / "node.key", tmp_path / "other.crt"),
        (deployment.folder / "blue" / "node.key", deployment.folder / "blue" / "site.crt"),  # another enrolled site
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call(deployment, "ActivateNode", activate, key, certificate, signed(key, datetime.now(UTC).isoformat()))
        assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)
        assert Control(settings).nodes()[node].status == "offline"
    with pytest.raises(grpc.RpcError) as refused:  # blue, over its own connection, with all that it can know of green
        call(
            deployment, "ActivateNode", activate, deployment.folder / "blue" / "node.key",
            deployment.folder / "blue" / "site.crt", signed(stranger / "node.key", datetime.now(UTC).isoformat(),
            shown=as_pem(read_registry(settings).sites["green"].public_key)),
        )  # fmt: skip
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert (site / "node.key").exists()
    deployment.start("green")
    deployment.wait_ready("green")
    assert train_a_round(deployment, "after-strangers", clients=2) == ["blue", "green"]
    health = deployment.health("green")["supernode"]
    assert (health["starts"], health["last_exit"]) == (1, None)  # it was let in at its first try


GOOD_TIME = "2026-01-01T00:00:00+00:00"
KEY, TIME, SIGNATURE = "flwr-public-key-bin", "flwr-timestamp", "flwr-signature-bin"
GARBAGE = {
    "no metadata": (),
    "a key that is none": ((KEY, b"\x00\xff"), (TIME, GOOD_TIME), (SIGNATURE, b"s")),
    "a time that is none": ((KEY, b"OWN"), (TIME, "yesterday"), (SIGNATURE, b"s")),
    "a time without a zone": ((KEY, b"OWN"), (TIME, GOOD_TIME[:19]), (SIGNATURE, b"s")),
    "a signature that is none": ((KEY, b"OWN"), (TIME, GOOD_TIME), (SIGNATURE, b"s")),
    "twice": ((KEY, b"OWN"), (KEY, b"OWN"), (TIME, GOOD_TIME), (SIGNATURE, b"s")),
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_metadata_is_refused_and_raises_nothing_in_the_superlink(deployment, garbage):
    """From a connection with a good certificate: without one nothing is read at all."""
    folder, log = deployment.folder / "blue", deployment.folder / "server" / "logs" / "superlink.log"
    before, own = log.stat().st_size, as_pem(read_registry(deployment.settings).sites["blue"].public_key)
    metadata = [(name, own if value == b"OWN" else value) for name, value in GARBAGE[garbage]]
    for method in ("ActivateNode", "PullMessages", "RegisterNode", "NoSuchMethod"):
        with pytest.raises(grpc.RpcError) as refused:
            call(deployment, method, b"", folder / "node.key", folder / "site.crt", metadata)
        assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
    assert b"Traceback" not in log.read_bytes()[before:]


def test_nobody_outside_this_machine_can_submit_a_run(deployment):
    assert accepts("127.0.0.1", deployment.settings.control_port)
    assert listeners(deployment.settings.control_port) <= LOOPBACK  # whatever addresses this machine has
    for address in outside_addresses():
        assert not accepts(address, deployment.settings.control_port), address


def test_the_port_that_sites_reach_takes_no_runs(deployment, tmp_path):
    """Flower's own `flwr run`, with the right certificate authority, against the only port that is open to others."""
    (tmp_path / "pki").mkdir()
    shutil.copy(deployment.settings.pki / "ca.crt", tmp_path / "pki")
    _, port = split_address(deployment.settings.address)
    outside = deployment.settings.model_copy(update={"folder": tmp_path, "control_port": port})
    write_bundle(tmp_path, run="intruder", recipe=b"name: a\n")
    with pytest.raises(ControlError):
        Control(outside).submit(tmp_path)
    control = Control(deployment.settings)
    assert "intruder" not in str(control.runs())
    assert control.status("4711") == "unknown"  # what a coordinator hears whose SuperLink has lost its database


def test_a_giant_message_from_a_stranger_is_refused_and_stops_nothing(deployment):
    """A well-formed message with one unknown field of 64 MiB, over TLS, without a node's signature."""
    before, site = deployment.health("server")["superlink"], deployment.folder / "blue"
    giant = b"\xa2\x06" + varint(GIANT) + bytes(GIANT)  # field 100, length-delimited
    for certificate, code in (("none.crt", grpc.StatusCode.UNAVAILABLE), ("site.crt", grpc.StatusCode.UNAUTHENTICATED)):
        with pytest.raises(grpc.RpcError) as refused:
            call(deployment, "PushMessages", giant, site / "node.key", site / certificate, ())
        assert refused.value.code() == code
    assert deployment.health("server")["superlink"] == before  # the same process; the next tests train rounds on it


def test_code_in_a_bundle_does_not_run_at_a_site(deployment, tmp_path):
    marker, answers = tmp_path / "marker", tmp_path / "answers"
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(EVIL_PYPROJECT.format(answers=answers, marker=marker))
    (tmp_path / "app" / "evil.py").write_text(EVIL)
    Control(deployment.settings).submit(tmp_path / "app")
    wait_for(answers.exists, timeout_s=120, what="the coordinator's half did not end")
    assert json.loads(answers.read_text()) == ["bundle-not-allowed"] * 2
    assert not marker.exists()


def test_connections_that_dribble_do_not_keep_honest_sites_out(deployment):
    host, port = split_address(deployment.settings.address)
    idle = [socket.create_connection((host, port), 5) for _ in range(200)]
    try:
        for connection in idle:
            connection.send(b"\x16\x03\x01")  # the first bytes of a TLS greeting, and nothing more
        assert train_a_round(deployment, "during-slow-loris", clients=2) == ["blue", "green"]
    finally:
        for connection in idle:
            connection.close()


def test_a_site_changes_its_key_on_a_running_system(deployment):
    """Whoever has stolen the old one is cut off; no other site notices."""
    settings, folder = deployment.settings, deployment.folder / "green"
    stolen, control = read_registry(settings).sites["green"].node, Control(settings)
    accept(folder, approve(settings, ask_with_new_key(folder, site="green")))
    wait_for(lambda: stolen not in control.nodes(), timeout_s=120, what="the old key's node is still registered")
    deployment.processes["green"].terminate()  # systemctl restart
    deployment.processes["green"].wait(60)
    deployment.start("green")
    deployment.wait_ready("green")
    assert train_a_round(deployment, "with-new-key", clients=2) == ["blue", "green"]
    assert control.nodes()[read_registry(settings).sites["green"].node].status == "online"


def test_a_revoked_site_is_cut_off_and_stays_out(deployment, tmp_path):
    """Last in this file: green does not come back."""
    node = read_registry(deployment.settings).sites["green"].node
    control = Control(deployment.settings)
    assert control.nodes()[node].status == "online"
    revoke(deployment.settings, "green")
    wait_for(lambda: node not in control.nodes(), timeout_s=60, what="the revoked node is still registered")
    assert train_a_round(deployment, "without-green", clients=1) == ["blue"]
    green = deployment.folder / "green"
    ran = supernode(deployment, green / "node.key", green / "site.crt", tmp_path / "home")
    assert LET_IN not in ran.stdout + ran.stderr
