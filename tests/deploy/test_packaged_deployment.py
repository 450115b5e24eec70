"""docker-compose.yml, the Dockerfiles and the systemd units say what docs/deployment.md promises of them.

Nothing is built here: there may be no engine. The file is held against the compose specification's schema, and where a
compose client is installed, it parses the file too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from client.deployment.agent import REVOKED_STATUS
from fedlora.deployment.environment import split_address
from fedlora.units_path import units_folder
from server.settings import ServerSettings

ROOT = units_folder()
FILE = ROOT / "docker-compose.yml"
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
pytestmark = pytest.mark.skipif(not FILE.exists(), reason="a wheel carries no compose file")


def compose_client() -> list[str] | None:
    """The command of a compose client that works without an engine."""
    if shutil.which("docker"):
        ran = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
        if ran.returncode == 0:
            return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(FILE.read_text())


def against_the_specification(file: Path) -> subprocess.CompletedProcess[str]:
    schema = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*schema, str(file)], capture_output=True, text=True, timeout=120, check=False)


def test_the_file_keeps_to_the_compose_specification(tmp_path):
    ran = against_the_specification(FILE)
    assert ran.returncode == 0, ran.stdout
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("read_only: true", "readonly: true"))
    ran = against_the_specification(wrong)
    assert ran.returncode == 1
    assert "readonly" in ran.stdout


def test_every_network_and_volume_that_is_used_is_declared(compose):
    """What the schema does not see, and `docker compose config` does."""
    for service in compose["services"].values():
        assert set(service["networks"]) <= set(compose["networks"])
        named = {volume.partition(":")[0] for volume in service["volumes"] if not volume.startswith(".")}
        assert named <= set(compose["volumes"])


def test_a_compose_client_accepts_the_file():
    client = compose_client()
    if client is None:
        pytest.skip("no compose client here; the tests above hold the file against the specification")
    ran = subprocess.run(
        [*client, "-f", str(FILE), "config", "-q"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_only_the_fleet_port_is_published_to_others(compose):
    published = {name: service.get("ports", []) for name, service in compose["services"].items()}
    fleet = ServerSettings.model_fields["listen"].default.rpartition(":")[2]
    assert published.pop("coordinator") == [f"{fleet}:{fleet}"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert not any(published[name] for name in published if name.startswith("site-"))


def test_every_service_is_unprivileged_and_watched(compose):
    for name, service in compose["services"].items():
        assert service["user"] not in ("0", "root"), name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["mem_limit"], name
    for name in ("coordinator", "site-a", "site-b", "dashboard"):
        asked = compose["services"][name]["healthcheck"]["test"]
        assert asked[:4] == ["CMD", "python", "-m", "fedlora.deployment.probe"], name


def test_metrics_are_where_prometheus_looks_and_no_site_does(compose):
    services, networks = compose["services"], compose["networks"]
    (job,) = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _ = split_address(target)
    assert services["coordinator"]["networks"]["operator"]["ipv4_address"] == host
    assert ip_address(host) in ip_network(networks["operator"]["ipam"]["config"][0]["subnet"])
    assert [name for name, service in services.items() if "operator" in service["networks"]] == [
        "coordinator",
        "dashboard",
        "prometheus",
    ]
    assert f"metrics_listen: {target}" in (ROOT / "deploy" / "compose-enrol.sh").read_text()


def test_the_dashboard_sees_the_coordinators_store_and_nothing_else_of_it(compose):
    services = compose["services"]
    (store,) = services["dashboard"]["volumes"]
    assert [name for name, service in services.items() if store in service["volumes"]] == ["coordinator", "dashboard"]
    url = services["dashboard"]["environment"]["FEDLORA_STORE"]
    assert url.removeprefix("sqlite:///").startswith(store.partition(":")[2])
    assert f"store: {url}" in (ROOT / "deploy" / "compose-enrol.sh").read_text()
    for name in ("Dockerfile", "Dockerfile.cuda"):
        assert "install -d -o fedlora -m 700 /store" in (ROOT / "deploy" / name).read_text()


def test_sites_share_neither_volume_nor_network(compose):
    sites = {name: service for name, service in compose["services"].items() if name.startswith("site-")}
    volumes = [volume for site in sites.values() for volume in site["volumes"]]
    networks = [network for site in sites.values() for network in site["networks"]]
    assert len(set(volumes)) == len(volumes) == len(sites)
    assert len(set(networks)) == len(networks) == len(sites)
    assert set(networks) <= set(compose["services"]["coordinator"]["networks"])


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_do_not_run_as_root(name):
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1] not in ("root", "0")
    assert lines[-1] == 'ENTRYPOINT ["fedlora"]'


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_restart_and_are_confined(unit: Path):
    text = unit.read_text()
    for line in ("Restart=always", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert f"\n{line}\n" in text
    assert "\nMemoryDenyWriteExecute=" not in text, "torch and numba compile kernels"


def test_the_agent_of_a_revoked_site_is_not_started_again():
    assert settings_of("fedlora-client@.service")["RestartPreventExitStatus"] == [str(REVOKED_STATUS)]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_exposure_of_a_unit_is_low_by_systemds_own_measure(unit: Path):
    """Of 10; what is left is what the services are for: a network, local sockets, GPUs, compiled kernels."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here")
    measured = ["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=30", str(unit)]
    ran = subprocess.run(measured, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr


def settings_of(unit: str) -> dict[str, list[str]]:
    """A unit's settings by name, in the order in which they stand."""
    lines = (ROOT / "deploy" / "systemd" / unit).read_text().splitlines()
    found: dict[str, list[str]] = {}
    for key, _, value in (line.partition("=") for line in lines if "=" in line and not line.startswith("#")):
        found.setdefault(key, []).append(value)
    return found


def test_the_dashboard_is_a_user_of_its_own_without_a_way_to_the_control_api():
    """It shares a group with the coordinator for the store's files, and a port that systemd opens for it."""
    dashboard, coordinator = settings_of("fedlora-dashboard.service"), settings_of("fedlora-coordinator.service")
    assert dashboard["User"] != coordinator["User"]
    assert dashboard["Group"] == coordinator["SupplementaryGroups"] == ["fedlora-store"]
    assert (dashboard["UMask"], coordinator["UMask"]) == (["0007"], ["0007"])
    assert dashboard["PrivateNetwork"] == ["yes"]
    assert dashboard["Requires"] == ["fedlora-dashboard.socket"]
    assert settings_of("fedlora-dashboard.socket")["ListenStream"] == ["127.0.0.1:8470"]
    assert dashboard["InaccessiblePaths"] == ["-/var/lib/fedlora/coordinator"]
    assert set(dashboard["ReadWritePaths"][0].split()) == {"/var/lib/fedlora/store"}
    assert "--allow-simulations" not in dashboard["ExecStart"][0]


def test_a_site_keeps_its_files_to_itself_and_its_gpus():
    site = settings_of("fedlora-client@.service")
    assert site["UMask"] == ["0077"]
    assert site["PrivateDevices"] == ["no"]
    assert "ProtectClock" not in site, "it would close every device but the clock"


def test_what_containers_print_is_kept_to_a_bounded_length(compose):
    script = (ROOT / "deploy" / "compose-enrol.sh").read_text()
    assert script.count("log_to: output") == 2, "coordinator and sites write no file that grows inside the container"
    for name, service in compose["services"].items():
        options = service["logging"]["options"]
        assert service["logging"]["driver"] == "json-file", name
        assert options["max-size"].endswith("m"), name
        assert 1 < int(options["max-file"]) <= 10, name


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_a_base_image_can_be_pinned_by_its_digest(name):
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    base = next(line for line in lines if line.startswith("ARG BASE="))
    assert re.fullmatch(r"ARG BASE=[\w./-]+:[\w.-]+", base), "never latest"
    assert lines[lines.index(base) + 1] == "FROM ${BASE}"
