"""A site's agent asks no hub for what a message names, unless client.yaml says so: tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from client.deployment.agent import children
from client.offline import OFFLINE
from client.settings import ClientSettings, SiteData
from fedlora.units_path import units_folder

CALLS = """
import socket, sys, time
from pathlib import Path

time.sleep = lambda seconds: None  # a hub that does not answer is tried again, and again, ever later

def attempt(*address, **options):
    print("asked", address[0])
    raise OSError("nobody is asked here")

socket.getaddrinfo = attempt
socket.create_connection = attempt
from client.settings import ClientSettings, SiteData
from client.offline import stay_offline

def look(downloads):
    settings = ClientSettings(site="a", coordinator="c:1", data=SiteData(train="x"), download_models=downloads)
    stay_offline(settings)
    from fedlora.config import ModelSettings
    from fedlora.models.base import load_base, load_processor
    from fedlora.settings import SettingsError
    for load in (lambda on: load_base(on, ("a", "b")), load_processor):
        try:
            load(ModelSettings(id="lab/encoder-that-nobody-has"))
        except SettingsError as error:
            print("not here")

"""


def said(folder: Path, script: str) -> list[str]:
    """What it prints in a process whose environment says nothing."""
    free = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    ran = subprocess.run(
        [sys.executable, "-c", CALLS + script], env={**free, "HF_HOME": str(folder)}, capture_output=True, text=True,
        timeout=180, check=False, cwd=units_folder(),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_model_that_is_not_here_is_not_asked_for(tmp_path):
    assert said(tmp_path, "look(False)") == ["not here", "not here"]


def test_it_is_asked_for_where_client_yaml_says_so_and_no_more_by_who_is_told_only_then(tmp_path):
    """The second is told after everything is imported, which reads the environment once."""
    found = said(tmp_path, "look(True)\nprint('told')\nlook(False)")
    told = found.index("told")
    assert any("huggingface.co" in line for line in found[:told])
    assert found[told + 1 :] == ["not here", "not here"]


def test_an_agents_children_are_started_offline(tmp_path):
    settings = ClientSettings(site="a", coordinator="127.0.0.1:9", data=SiteData(train=Path("x")), folder=tmp_path)
    for executor in ("warm", "stock"):
        for downloads in (False, True):
            chosen = settings.model_copy(update={"executor": executor, "download_models": downloads})
            child = children(chosen, tmp_path / "client.yaml", port=1, coordinator="127.0.0.1:9")[1]
            assert child.name == "executor"
            assert (OFFLINE.items() <= child.environment.items()) is not downloads


def test_an_executor_has_imported_no_hub_before_it_is_told():
    hubs = ("huggingface_hub", "transformers")
    imported = f"import sys, client.flower.executor; print([m for m in {hubs} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", imported], capture_output=True, text=True, timeout=120, check=True, cwd=units_folder()
    )
    assert ran.stdout.strip() == "[]"
