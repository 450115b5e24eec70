"""The coordinator's client of Flower's Control API: against a real SuperLink, and against one that is not there."""

from __future__ import annotations

import socket

import pytest

from client.deployment.agent import free_port
from fedlora.deployment.enrolment import make_request, new_node_key
from server.flower.control import Control, ControlError, UnreachableError, key_bytes
from server.flower.patient_flower import be_patient
from server.trust.provision import initialise
from simulations.deployment import make_deployment


@pytest.fixture
def settings(tmp_path):
    made = initialise(tmp_path / "server", name="net", address="x:1")
    patience = made.patience.model_copy(update={"control_s": 0.5})
    return made.model_copy(update={"control_port": free_port(), "patience": patience})


def test_a_superlink_that_is_not_there_is_unreachable(settings):
    control = Control(settings)
    with pytest.raises(UnreachableError, match="ListRuns: ConnectError"):
        control.ping()
    assert control.asked_at is None


def test_a_superlink_that_accepts_and_never_answers_is_unreachable_after_the_bound(settings):
    with socket.create_server(("127.0.0.1", settings.control_port)):
        control = Control(settings)
        for _ in range(2):
            with pytest.raises(UnreachableError, match="Timeout"):
                control.nodes()


def test_a_ca_certificate_that_is_gone_or_damaged_is_an_error_of_the_call(settings):
    (settings.pki / "ca.crt").write_text("x")
    with pytest.raises(UnreachableError, match="SSLError"):
        Control(settings).ping()
    (settings.pki / "ca.crt").unlink()
    with pytest.raises(UnreachableError, match="FileNotFoundError"):
        Control(settings).ping()


def test_a_serverapp_has_longer_to_start_than_flower_gives_it(monkeypatch):
    """Where Flower keeps its bound elsewhere, the SuperLink does not start: it would give up what starts slowly."""
    from flwr.supercore.corestate import sql_corestate

    monkeypatch.setattr(sql_corestate, "HEARTBEAT_DEFAULT_INTERVAL", 30)
    be_patient(300.0)
    assert sql_corestate.HEARTBEAT_DEFAULT_INTERVAL == 300.0
    with pytest.raises(RuntimeError, match="the time limit for a start cannot be set"):
        be_patient(300.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_superlink_answers_as_the_coordinator_expects(tmp_path):
    with make_deployment(tmp_path, sites=(), data=tmp_path, labels=("a", "b")) as deployment:
        deployment.start_all()
        deployment.wait_ready("server", timeout_s=300)
        control = Control(deployment.settings)
        request = make_request("a", new_node_key())
        before = control.nodes()  # none: the coordinator cuts off what is not approved
        assert before == {}
        node = control.register(request.public_key)
        with pytest.raises(ControlError, match="code: 23"):
            control.register(request.public_key)
        known = control.nodes().get(node)
        assert known is None or known.key == key_bytes(request.public_key)
        assert control.status("4711") == "unknown"
        control.stop("4711")  # what is over need not be stopped
        control.ping()
