"""The door before Flower's Fleet API, over real TLS: who comes through, and that Flower hears of nobody else."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from client.deployment.enroll import accept, ask, ask_with_new_key
from client.flower.fleet import signed
from client.flower.identity import certificate_for, channel_credentials, load_node_key
from client.flower.supernode import CONNECTION
from server.flower.admitted import Approved, Seen, as_pem, read_seen
from server.flower.door import METHODS, Door
from server.flower.superlink import MODULE, client_certificates
from server.trust.provision import approve, initialise, read_registry, revoke


@dataclass
class Flower(grpc.GenericRpcHandler):
    """Stands behind the door: remembers what it hears."""

    heard: list[tuple[str, bytes]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: ActivateNodeRequest, context: grpc.ServicerContext) -> bytes:
            self.heard.append((details.method.rpartition("/")[2], request.public_key))
            return b""

        return grpc.unary_unary_rpc_method_handler(answer, ActivateNodeRequest.FromString, bytes)


@dataclass
class Scene:
    """Two enrolled sites, a and b, and an open port."""

    settings: object
    folder: Path
    port: int
    flower: Flower
    seen: list[str]

    def key(self, site: str) -> Path:
        return self.folder / site / "node.key"

    def pem(self, site: str) -> bytes:
        return as_pem(ask(self.folder / site, site=site).public_key)

    def call(
        self, method: str, request: bytes, *, key: str, certificate: str | None, shown: bytes | None = None
    ) -> str:
        """The name of the status with which the call ends."""
        path = self.folder / (certificate or "nobody") / "site.crt"
        holder = self.key(certificate or key)
        metadata = signed(self.key(key), datetime.now(UTC).isoformat())
        credentials = channel_credentials((self.settings.pki / "ca.crt").read_bytes(), holder, path)
        with grpc.secure_channel(f"localhost:{self.port}", credentials) as channel:
            try:
                made = channel.unary_unary(f"/flwr.proto.Fleet/{method}")
                made(request, metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                return error.code().name
        return "OK"


@pytest.fixture(params=[True, False], ids=["required", "optional"])
def certificates(request) -> bool:
    return request.param


@pytest.fixture
def scene(tmp_path, certificates) -> Iterator[Scene]:
    settings = initialise(tmp_path / "server", name="net", address="localhost:1")
    for site in ("a", "b"):
        accept(tmp_path / site, approve(settings, ask(tmp_path / site, site=site)))
    ask(tmp_path / "stranger", site="stranger")
    flower, seen = Flower(), []
    door = Door(Approved(settings.folder), certificates=certificates, seen=seen.append)
    pem, authority = ((settings.pki / name).read_bytes() for name in ("server.pem", "ca.crt"))
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[flower], interceptors=[door])
    shown = grpc.ssl_server_credentials([(pem, pem)], root_certificates=authority, require_client_auth=certificates)
    port = server.add_secure_port("localhost:0", shown)
    server.start()
    yield Scene(settings, tmp_path, port, flower, seen)
    server.stop(None).wait()


def activation(public_key: bytes) -> bytes:
    return ActivateNodeRequest(public_key=public_key).SerializeToString()


def test_an_approved_site_comes_through_in_its_own_name(scene):
    assert scene.call("ActivateNode", activation(scene.pem("a")), key="a", certificate="a") == "OK"
    assert scene.call("PullMessages", b"", key="b", certificate="b") == "OK"
    assert [method for method, _ in scene.flower.heard] == ["ActivateNode", "PullMessages"]
    assert scene.seen == ["a", "b"]


def test_a_stranger_reaches_no_method(scene, certificates):
    for method in (*(name.rpartition("/")[2] for name in METHODS), "RegisterNode", "UnregisterNode", "Nothing"):
        said = scene.call(method, b"", key="stranger", certificate=None)
        assert said in (("UNAVAILABLE",) if certificates else ("UNAUTHENTICATED", "UNIMPLEMENTED"))
    assert scene.flower.heard == []
    assert scene.seen == []


def test_a_site_does_not_activate_anothers_node(scene):
    """What Flower 1.39 allows: the key that signs and the key that is named are not compared there."""
    assert scene.call("ActivateNode", activation(scene.pem("b")), key="a", certificate="a") == "UNAUTHENTICATED"
    assert scene.flower.heard == []


def test_a_site_speaks_over_no_connection_but_its_own(scene, certificates):
    said = scene.call("PullMessages", b"", key="a", certificate="b")
    assert said == ("UNAUTHENTICATED" if certificates else "OK")  # without certificates there is the key's signature


def test_what_is_registered_by_the_administrator_alone_is_not_offered(scene):
    for method in ("RegisterNode", "UnregisterNode", "Nothing"):
        assert scene.call(method, b"", key="a", certificate="a") == "UNIMPLEMENTED"
    assert scene.flower.heard == []


def test_a_revoked_site_is_out_with_its_next_call_and_a_replaced_key_too(scene):
    revoke(scene.settings, "a")
    assert scene.call("PullMessages", b"", key="a", certificate="a") == "UNAUTHENTICATED"
    grant = approve(scene.settings, ask_with_new_key(scene.folder / "b", site="b"))
    assert scene.call("PullMessages", b"", key="b", certificate="b") == "UNAUTHENTICATED"
    accept(scene.folder / "b", grant)
    assert scene.call("PullMessages", b"", key="b", certificate="b") == "OK"


def test_a_sites_certificate_is_no_servers_and_a_servers_no_sites(scene, certificates):
    """Each says what it is for, and TLS looks."""
    if not certificates:
        return
    key, own = load_node_key(scene.key("a")), scene.folder / "a" / "site.crt"
    assert certificate_for(key.public_key(), own) is not None
    pem = (scene.settings.pki / "server.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials((scene.settings.pki / "ca.crt").read_bytes(), pem, pem)
    with (
        grpc.secure_channel(f"localhost:{scene.port}", credentials) as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary("/flwr.proto.Fleet/PullMessages")(b"", timeout=20)
    assert refused.value.code().name == "UNAVAILABLE"
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[scene.flower])
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    as_server = key.private_bytes(serialization.Encoding.PEM, pkcs8, plain), own.read_bytes()
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([as_server]))
    server.start()
    scene.port = port
    assert scene.call("PullMessages", b"", key="b", certificate="b") == "UNAVAILABLE"
    server.stop(None).wait()


def test_a_registry_that_cannot_be_read_changes_nobodys_place(scene):
    approved, sites = Approved(scene.settings.folder), scene.settings.folder / "sites.json"
    before, whole = dict(approved()), sites.read_bytes()
    assert sorted(before.values()) == ["a", "b"]
    for damage in (b"", b"{", b'{"a": {"status": "approved"}}', b"[1]"):
        sites.write_bytes(damage)
        assert dict(approved()) == before
    sites.unlink()
    assert dict(approved()) == before
    assert dict(Approved(scene.settings.folder)()) == {}  # a door that never read it lets nobody in
    sites.write_bytes(whole)
    revoke(scene.settings, "a")
    assert list(approved().values()) == ["b"]


def test_who_was_here_is_written_now_and_then_and_kept(tmp_path):
    clock = iter([100.0, 101.0, 115.0, 116.0])
    seen = Seen(tmp_path, clock=lambda: next(clock))
    seen("a")
    seen("a")
    assert read_seen(tmp_path) == {"a": 100.0}
    seen("a")
    seen("b")  # somebody new is written at once
    assert read_seen(tmp_path) == {"a": 115.0, "b": 116.0}
    (tmp_path / "seen.json").write_text("[")
    assert read_seen(tmp_path) == {}


def test_flower_makes_its_fleet_server_as_the_launcher_expects(tmp_path):
    """What `server.flower.superlink` and `client.flower.supernode` take from Flower's private names."""
    pki = initialise(tmp_path / "server", name="net", address="localhost:1").pki
    authority, pem = ((pki / name).read_bytes() for name in ("ca.crt", "server.pem"))
    flower = importlib.import_module(MODULE)
    assert "generic_create_grpc_server(" in inspect.getsource(flower._run_fleet_api_grpc_rere)
    with client_certificates() as asked:
        server = flower.generic_create_grpc_server(
            servicer_and_add_fn=(None, lambda servicer, server: None), server_address="127.0.0.1:0",
            certificates=(authority, pem, pem), interceptors=[],
        )  # fmt: skip
    server.stop(None)
    assert asked == [True]
    source = inspect.getsource(importlib.import_module(CONNECTION).grpc_request_response)
    assert "channel = create_channel(\n        server_address=server_address,\n        insecure=insecure," in source


def test_the_registry_says_who_is_approved(scene):
    revoke(scene.settings, "b")
    assert read_registry(scene.settings).approved == ["a"]
