"""Provisioning to export over gRPC with TLS, and the same numbers as the simulation of the same recipe."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import torch
from safetensors.torch import load_file

from client.flower.clock import against_coordinator
from client.settings import load_client
from fedlora import __version__
from fedlora.config import DeviceSettings, Recipe, load
from fedlora.deployment.environment import split_address
from server.requests.declared import read_declared
from server.store.opening import open_store
from server.store.reading import read_rounds, read_runs, read_sites
from simulations.data.site_files import write_site_files
from simulations.deployment import DEMO_RECIPE, Deployment, make_deployment
from simulations.run import Execution, federate, prepare
from tests.deploy.listening import LOOPBACK, listeners
from tests.postgresql import installed, postgresql

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OVERRIDES = [
    "rounds.count=3", "rounds.min_clients=2", "rounds.quorum=1.0", "rounds.evaluate_every=3", "rounds.deadline_s=300",
    "train.steps=2", "train.batch_size=8", "model.max_tokens=24", "data.held_out=200", "data.train_fraction=0.4",
    "privacy.noise_multiplier=0.8", "privacy.insecure_seed=5", "wire.codec=int8", "wire.density=0.5",
]  # fmt: skip
POLICY = {
    "allow_insecure_noise": True, "epsilon_budget": 1000.0, "base_models": ["demo"], "strategies": ["fedsvd"],
    "datasets": {},
}  # fmt: skip
"""The size to the next step of the ladder, as in the simulation that the deployment is compared with."""
CAPPED = {"limits": {"megabits_s": 100.0, "memory_mib": 4096}, "resources": {"memory_mb": 500.0}}
LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load(DEMO_RECIPE, OVERRIDES)


@pytest.fixture(scope="module")
def store_url(tmp_path_factory) -> Iterator[str]:
    """PostgreSQL where it is installed, otherwise a file."""
    if not installed():
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'fedlora.db'}"
        return
    with postgresql() as server:
        yield server.new_database()


@pytest.fixture(scope="module")
def deployment(recipe, tmp_path_factory, store_url):
    folder = tmp_path_factory.mktemp("deployment")
    names = write_site_files(recipe, folder / "data")[:2]
    made = make_deployment(
        folder, sites=names, data=folder / "data", labels=LABELS, policy=POLICY, client=CAPPED,
        server={"store": store_url},
    )  # fmt: skip
    with made:
        made.start_all()
        yield made


@pytest.fixture(scope="module")
def finished(deployment: Deployment, recipe) -> Path:
    folder = deployment.submit(recipe, name="three-rounds")
    deployment.wait_run(folder, timeout_s=600)
    return folder


def test_three_private_rounds_are_the_rounds_of_the_simulation(deployment, finished, recipe, tmp_path):
    """A sum of two updates does not depend on their order of arrival, so the numbers are the same bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    federate(prepare(recipe), deployment.sites, tmp_path, how=Execution(print))
    torch.set_num_threads(threads)
    deployed = load_file(finished / "adapter" / "adapter_model.safetensors")
    simulated = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert deployed.keys() == simulated.keys()
    for name, tensor in simulated.items():
        torch.testing.assert_close(deployed[name], tensor, rtol=0, atol=0, msg=name)
    lines = [[json.loads(line) for line in (f / "rounds.jsonl").read_text().splitlines()] for f in (finished, tmp_path)]
    assert [r["evaluation"] for r in lines[0]] == [r["evaluation"] for r in lines[1]]
    assert [r["aggregation_error"] for r in lines[0]] == [r["aggregation_error"] for r in lines[1]]


def test_every_site_charged_its_ledger_and_sent_a_receipt_each_round(deployment, finished):
    rounds = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    assert [r["round"] for r in rounds] == [1, 2, 3]
    for record in rounds:
        assert {c["client"] for c in record["clients"]} == set(deployment.sites)
        assert all(c["outcome"] == "trained" and c["receipt"] for c in record["clients"])
    for site in deployment.sites:
        ledger = deployment.folder / site / "state" / "privacy" / "default" / "ledger.jsonl"
        assert ledger.read_text().count('"kind":"charge"') == 3


def test_the_store_says_of_the_run_what_its_folder_says(deployment, finished, store_url):
    with closing(open_store(store_url)) as store, store.reading() as connection:
        (run,) = read_runs(connection)
        rounds = read_rounds(connection, run)
        told = {site.site: site.machine["fedlora"] for site in read_sites(connection) if site.machine}
    lines = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    assert (run.name, run.kind, run.state) == (finished.name, "deployment", "finished")
    assert [(r.round, r.bytes_up, r.bytes_down) for r in rounds] == [
        (line["round"], line["bytes_up"], line["bytes_down"]) for line in lines
    ]
    assert told == dict.fromkeys(deployment.sites, __version__)


def test_the_summary_says_what_the_receipts_do_and_what_no_epsilon_covers(deployment, finished):
    summary = json.loads((finished / "summary.json").read_text())
    lines = [json.loads(line) for line in (finished / "rounds.jsonl").read_text().splitlines()]
    assert (summary["rounds"], summary["clients"], summary["accuracy"]) == (3, 2, lines[-1]["evaluation"]["accuracy"])
    last = {client["client"]: client["receipt"]["epsilon_run"] for client in lines[-1]["clients"]}
    assert summary["epsilon_by_client"] == last
    assert summary["insecure_noise"]
    assert any("public size" in leak for leak in summary["leaks"])
    assert summary["versions"]["fedlora"] == __version__


def test_what_sites_declared_is_known_to_the_coordinator(deployment, finished):
    device = DeviceSettings(memory_mb=500.0)
    assert read_declared(deployment.settings.folder) == dict.fromkeys(deployment.sites, device)


def test_a_capped_site_is_connected_through_its_cap(deployment, finished):
    """Its SuperNode speaks TLS with the coordinator through a port of the agent."""
    for site in deployment.sites:
        supernode = deployment.health(site)["supernode"]["pid"]
        command = Path(f"/proc/{supernode}/cmdline").read_text().split("\0")
        assert command[command.index("--superlink") + 1] != deployment.settings.address
        executor = deployment.health(site)["executor"]["pid"]
        assert f"{4096 * 2**20}" in Path(f"/proc/{executor}/limits").read_text()


def test_updates_travel_by_grpc_over_tls(deployment, finished):
    """The listener that the sites' SuperNodes are connected to speaks TLS 1.2 or later and HTTP/2, as gRPC does."""
    host, port = split_address(deployment.settings.address)
    context = ssl.create_default_context(cafile=str(deployment.settings.pki / "ca.crt"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection((host, port), 5) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        assert tls.selected_alpn_protocol() == "h2"
        assert tls.version() in ("TLSv1.2", "TLSv1.3")
    fleet = f"{int(port):04X}"
    established = [line for t in ("tcp", "tcp6") for line in Path(f"/proc/net/{t}").read_text().splitlines()[1:]]
    peers = [line for line in established if line.split()[2].endswith(f":{fleet}") and line.split()[3] == "01"]
    assert len(peers) >= len(deployment.sites)


def test_an_authority_that_did_not_sign_the_certificate_is_not_believed(deployment, finished):
    host, port = split_address(deployment.settings.address)
    with socket.create_connection((host, port), 5) as plain, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def test_plaintext_is_refused(deployment, finished):
    channel = grpc.insecure_channel(deployment.settings.address)
    try:
        with pytest.raises(grpc.FutureTimeoutError):
            grpc.channel_ready_future(channel).result(timeout=5)
    finally:
        channel.close()


def test_only_the_fleet_port_could_be_reached_from_outside(deployment, finished):
    assert listeners(deployment.settings.control_port)
    assert listeners(deployment.settings.control_port) <= LOOPBACK
    assert listeners(deployment.health_ports["server"]) <= LOOPBACK


def test_the_export_is_a_peft_adapter(finished):
    config = json.loads((finished / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"


def test_a_supernode_that_was_killed_is_let_in_at_its_first_try(deployment, finished):
    """Without a good-bye it would exit with 305 until its heartbeat has run out."""
    site = deployment.sites[1]
    before, let_in = deployment.health(site)["supernode"], deployment.let_in(site)
    deployment.kill_child(site, "supernode")
    deployment.wait_let_in(site, after=let_in)
    after = deployment.health(site)["supernode"]
    assert (after["starts"], after["last_exit"]) == (before["starts"] + 1, -signal.SIGKILL)


@pytest.mark.parametrize(
    ("ahead_s", "grade"), [(0, "good"), (-200, "good"), (30, "bad"), (-400, "bad"), (86_400, "bad")]
)
def test_a_site_can_ask_whether_its_clock_is_right(deployment, finished, ahead_s, grade):
    settings = load_client(deployment.folder / deployment.sites[0] / "client.yaml")
    assert against_coordinator(settings, ahead=timedelta(seconds=ahead_s)).grade == grade


def test_doctors_find_nothing_bad(deployment, finished):
    for unit, config in (("server", "server/server.yaml"), ("client", f"{deployment.sites[0]}/client.yaml")):
        ran = subprocess.run(
            [sys.executable, "-m", "fedlora", unit, "doctor", "--json", "--config", str(deployment.folder / config)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        found = {f["check"]: f["grade"] for f in json.loads(ran.stdout)}
        # This deployment's policy allows noise from a seed, which a doctor must call bad; nothing else may be.
        assert [check for check, grade in found.items() if grade == "bad"] == (["policy"] if unit == "client" else [])
        assert ran.returncode == int(unit == "client")
