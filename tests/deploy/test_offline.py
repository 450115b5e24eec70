"""A site's agent asks no hub for what a message names, unless client.yaml says so: tried in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
settings = ClientSettings(site="a", coordinator="c:1", data=SiteData(train="x"), download_models=DOWNLOADS)
BEFORE
from client.offline import stay_offline
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


def said(folder: Path, *, downloads: bool, before: str = "") -> list[str]:
    """What loading a model that is not on this machine prints, in a process whose environment says nothing."""
    free = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    script = CALLS.replace("DOWNLOADS", str(downloads)).replace("BEFORE", before)
    ran = subprocess.run(
        [sys.executable, "-c", script], env={**free, "HF_HOME": str(folder)}, capture_output=True, text=True,
        timeout=180, check=False, cwd=units_folder(),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.parametrize("before", ["", "import huggingface_hub, transformers, fedlora.models.base"])
def test_a_model_that_is_not_here_is_not_asked_for(tmp_path, before):
    assert said(tmp_path, downloads=False, before=before) == ["not here", "not here"]


def test_it_is_asked_for_where_client_yaml_says_so(tmp_path):
    found = said(tmp_path, downloads=True)
    assert any("huggingface.co" in line for line in found)


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
