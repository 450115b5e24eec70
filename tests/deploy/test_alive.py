"""A real coordinator and a real site: one owner a folder, what each says of the other, orphans, a revoked site."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.deployment.agent import REVOKED_STATUS
from fedlora.processes.living import Process, born, is_alive
from server.trust.provision import revoke
from simulations.data.site_files import write_site_files
from simulations.deployment import Deployment, make_deployment
from tests.federations import CLIENTS, save_messages, save_tiny_model, tiny_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's"),
]

SITE = CLIENTS[0]
LONG_S = 240.0


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("alive")
    recipe = tiny_recipe(save_tiny_model(folder / "model"), save_messages(folder / "messages.csv"))
    write_site_files(recipe, folder / "data")
    made = make_deployment(
        folder, sites=[SITE], data=folder / "data", labels=("bad", "good"), policy={"require_privacy": False},
        server={"patience": {"control_s": 3.0}}, client={"patience": {"revoked_s": 5.0}},
    )  # fmt: skip
    with made:
        made.start_all()
        for name in ("server", SITE):
            made.wait_ready(name, timeout_s=LONG_S)
        yield made


def said(deployment: Deployment, name: str) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{deployment.health_ports[name]}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


def wait_for(condition: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.3)


def why(deployment: Deployment, name: str, duty: str) -> str:
    return str(said(deployment, name)[1].get("duties", {}).get(duty, {}).get("why"))


@pytest.mark.parametrize("name", ["server", SITE])
def test_a_second_one_on_the_same_folder_is_refused_with_the_firsts_pid(deployment, name):
    unit = "server" if name == "server" else "client"
    config = deployment.folder / name / f"{unit}.yaml"
    second = [sys.executable, "-m", "fedlora", unit, "up", "--config", str(config)]
    ran = subprocess.run(second, capture_output=True, text=True, timeout=LONG_S, check=False)
    assert ran.returncode != 0
    said_there = " ".join((ran.stdout + ran.stderr).split())
    assert f"process {deployment.processes[name].pid}, since" in said_there
    assert said(deployment, name)[1]["processes"]["executor"]["alive"]


def test_both_say_that_the_other_is_there(deployment):
    wait_for(lambda: said(deployment, "server")[0] == 200, "the coordinator is not ready")
    wait_for(lambda: said(deployment, SITE)[0] == 200, "the site is not ready")
    assert why(deployment, "server", "superlink") == "None"
    assert why(deployment, SITE, "coordinator") == "None"


def test_a_frozen_superlink_is_said_and_an_orphan_that_does_not_listen_is_ended_by_the_next_start(deployment):
    """SIGTERM waits for a stopped process to go on: the kernel's, at the coordinator's death, and `kill`'s."""
    pid = deployment.child_pid("server", "superlink")
    assert pid is not None
    frozen = Process(pid, born(pid) or "")
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: "ListRuns" in why(deployment, "server", "superlink"), "nobody noticed")
    assert said(deployment, "server")[0] == 503
    deployment.kill("server")
    assert is_alive(frozen)
    deployment.start("server")
    deployment.wait_ready("server", timeout_s=LONG_S)
    assert not is_alive(frozen)
    wait_for(lambda: said(deployment, "server")[0] == 200, "the SuperLink does not answer")


def test_the_agent_of_a_revoked_site_says_so_and_stops(deployment):
    """Last in this file."""
    wait_for(lambda: said(deployment, SITE)[0] == 200, "the site did not come back")
    revoke(deployment.settings, SITE)
    wait_for(lambda: deployment.processes[SITE].poll() is not None, "the agent goes on")
    assert deployment.processes[SITE].returncode == REVOKED_STATUS
    log = Path(deployment.folder / f"{SITE}.log").read_text()
    assert "this site is revoked; its agent stops" in log
