"""Strangers' packages in a fresh environment, run by name; the page about them shows the very files that are run."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.federations import save_tiny_model
from tests.plugins.places import FOLDERS
from tests.test_packaging import ROOT, environment, install, run

__all__ = ["environment"]
PAGE = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_page_shows_the_package_that_is_run(kind):
    (file,) = FOLDERS[kind].glob("*.py")
    assert file.read_text() in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert f"`tests/plugins/{kind}/{file.name}`" in PAGE


@pytest.mark.slow
def test_packages_that_are_installed_are_run_by_name(environment: Path, tmp_path: Path):
    install(environment, "-e", ROOT, *FOLDERS.values(), cwd=tmp_path)
    command = environment / "bin" / "fedlora"
    rows = {row["name"]: row for row in json.loads(run(command, "plugins", "--json", cwd=tmp_path))}
    assert rows.keys() == {"steady", "focal-classification", "tickets", "calm-adam"}
    told = json.loads(run(command, "strategies", "--json", cwd=tmp_path))
    assert "steady" in {row["strategy"] for row in told}
    model = save_tiny_model(tmp_path / "model")
    named = [
        "strategy.name=steady", "strategy.pace=0.7", "model.task=focal-classification", "data.source=tickets",
        "train.optimizer=calm-adam", f"model.id={model}", "model.max_tokens=16", "rounds.count=2", "train.steps=2",
        "data.held_out=40",
    ]  # fmt: skip
    settings = [part for name in named for part in ("--set", name)]
    assert "name: steady" in run(command, "config", "check", "six-airlines", *settings, cwd=tmp_path)
    run(command, "compare", "six-airlines", *settings, "--out", "both", "--quiet", cwd=tmp_path)
    summary = json.loads(next((tmp_path / "both").glob("**/summary.json")).read_text())
    assert (summary["strategy"], summary["clients"]) == ("steady", 4)
    misspelt = [*settings, "--set", "train.optimizer=calm-adm"]
    refused = subprocess.run(
        [str(command), "config", "check", "six-airlines", *misspelt], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "did you mean 'calm-adam'?" in refused.stderr
