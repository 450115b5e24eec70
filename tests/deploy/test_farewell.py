"""The agent says good-bye for a SuperNode that was killed, signed with its key, and never fails by it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from client.deployment.enroll import accept, ask
from client.flower.deregister import deregister, remember_node
from client.settings import ClientSettings, load_client
from fedlora.processes.supervise import Child, Supervisor
from server.trust.provision import approve, initialise

NODE = 2**64 - 3  # Flower's ids fill 64 bits


@dataclass
class Fleet(grpc.GenericRpcHandler):
    """As much of a SuperLink as hears good-byes, over real TLS."""

    refuses: bool = False
    heard: list[tuple[str, int, bool]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        given: dict[str, Any] = dict(details.invocation_metadata)

        def answer(request: DeactivateNodeRequest, context: grpc.ServicerContext) -> bytes:
            key = bytes_to_public_key(given["flwr-public-key-bin"])
            valid = verify_signature(key, given["flwr-timestamp"].encode(), given["flwr-signature-bin"])
            self.heard.append((details.method, request.node_id, valid))
            if self.refuses:
                context.abort(grpc.StatusCode.INTERNAL, "not connected")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer, DeactivateNodeRequest.FromString, bytes)


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def site(tmp_path, fleet) -> Iterator[ClientSettings]:
    coordinator = initialise(tmp_path / "server", name="net", address="localhost:1")
    accept(tmp_path / "site", approve(coordinator, ask(tmp_path / "site", site="a")))
    key, certificate = ((coordinator.pki / name).read_bytes() for name in ("server.pem", "server.pem"))
    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[fleet])
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    settings = load_client(tmp_path / "site" / "client.yaml")
    yield settings.model_copy(update={"coordinator": f"localhost:{port}"})
    server.stop(None).wait()


def test_a_good_bye_is_said_for_the_node_of_the_last_message_and_signed(site, fleet):
    for node in (7, NODE):
        remember_node(site, node)
    deregister(site)
    assert fleet.heard == [("/flwr.proto.Fleet/DeactivateNode", NODE, True)]


def test_a_site_that_never_had_a_message_says_nothing(site, fleet):
    deregister(site)
    assert fleet.heard == []


def test_neither_a_refusal_nor_a_coordinator_that_is_away_is_an_error(site, fleet):
    fleet.refuses = True
    remember_node(site, NODE)
    deregister(site)
    deregister(site.model_copy(update={"coordinator": "localhost:1"}))
    assert len(fleet.heard) == 1


def test_a_child_is_started_whatever_was_done_before():
    def fail() -> None:
        raise OSError("no such disk")

    supervisor = Supervisor([Child("a", ["sleep", "600"], before=fail)])
    try:
        supervisor.step()
        assert supervisor.pid("a") is not None
    finally:
        supervisor.stop_children()


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\x00", b"12 34"])
def test_a_damaged_id_costs_the_good_bye_and_no_message(site, fleet, content):
    path = site.home("supernode") / "node-id"
    remember_node(site, NODE)
    path.write_bytes(content)
    deregister(site)
    assert fleet.heard == []
    remember_node(site, NODE)
    deregister(site)
    assert [node for _, node, _ in fleet.heard] == [NODE]


def test_an_id_that_cannot_be_written_costs_no_message(site):
    home = site.home("supernode")
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_text("a file in the folder's place")
    remember_node(site, NODE)
