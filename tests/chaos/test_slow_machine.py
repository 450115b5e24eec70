"""A whole deployment that is held to a tenth of a core is slow, and nothing of it is taken for dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.runs.submissions import completed_rounds, look_at, read_submission, state_of
from simulations.data.site_files import write_site_files
from simulations.deployment import Deployment, make_deployment
from tests.chaos.holds import is_stopped
from tests.chaos.slowness import Slowness, tree
from tests.federations import CLIENTS, save_messages, save_tiny_model, tiny_recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's"),
]

TENTH = 0.1
RECIPE = [
    "rounds.count=2", "rounds.min_clients=1", "rounds.quorum=1.0", "rounds.deadline_s=600", "rounds.wait_s=600",
    "rounds.evaluate_every=2", "train.steps=1",
]  # fmt: skip
SITE = CLIENTS[0]
LIMIT_S = 600


def lives(deployment: Deployment) -> dict[tuple[str, str], object]:
    """How often each process of the deployment was started."""
    return {
        (name, child): part["starts"] for name in ("server", SITE) for child, part in deployment.health(name).items()
    }


def test_a_run_on_a_tenth_of_a_core_is_finished_by_its_first_attempt(tmp_path):
    """The processes are up when it begins; the ServerApp's imports, both rounds and the export are on the tenth.

    With silence as the only sign (0.1.0) six ServerApps were stopped during their imports, and the run given up.
    """
    model = save_tiny_model(tmp_path / "model")
    recipe = tiny_recipe(model, save_messages(tmp_path / "messages.csv"), *RECIPE)
    write_site_files(recipe, tmp_path / "data")
    patience = {"patience": {"silent_s": 5.0}}  # asked after all the time that it imports
    deployment = make_deployment(
        tmp_path, sites=[SITE], data=tmp_path / "data", labels=("bad", "good"), policy={"require_privacy": False},
        server=patience,
    )  # fmt: skip
    with deployment:
        deployment.start_all()
        for name in ("server", SITE):
            deployment.wait_ready(name, timeout_s=300)
        deployment.wait_let_in(SITE)
        before = lives(deployment)
        with Slowness(lambda: [process.pid for process in deployment.processes.values()], share=TENTH):
            run = deployment.submit(recipe, name="slow")
            give_up = time.monotonic() + LIMIT_S
            while state_of(run) not in ("finished", "gave-up") and time.monotonic() < give_up:
                time.sleep(0.5)
        seen = look_at(run)
        assert (seen.state, completed_rounds(run)) == ("finished", 2), story(tmp_path, run)
        assert read_submission(run).attempts == 1, story(tmp_path, run)
        assert lives(deployment) == before, story(tmp_path, run)


def story(folder: Path, run: Path) -> str:
    logs = [folder / "server.log", folder / f"{SITE}.log", *folder.glob("*/logs/*.log"), run / "run.log"]
    return "\n".join(f"{path}\n{path.read_text()[-3000:]}" for path in logs if path.exists())


def test_a_tree_is_held_to_its_share_and_let_go():
    burn = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'while True: pass'])\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn], start_new_session=True) as process:
        give_up = time.monotonic() + 60
        while len(tree([process.pid])) < 2:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        began = time.monotonic()
        with Slowness(lambda: [process.pid], share=TENTH) as held:
            time.sleep(4.0)
        share = held.used_s / (time.monotonic() - began)
        assert not any(is_stopped(pid) for pid in tree([process.pid]))
        os.killpg(process.pid, signal.SIGKILL)
    assert share < 2 * TENTH  # a look may come late
