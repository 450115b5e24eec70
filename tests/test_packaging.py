"""The wheel puts only `fedlora` into site-packages and works from an empty folder; so does a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNITS = ("server", "client", "strategies", "simulations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, built by hatchling without network or isolation."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    return next(out.glob("*.whl"))


def test_only_fedlora_is_at_the_top_of_the_wheel(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedlora"}
    assert {f"fedlora/units/{unit}/__init__.py" for unit in UNITS} <= set(names)
    assert "fedlora/units/simulations/recipes/six-airlines.yaml" in names


def test_the_installed_wheel_runs_from_an_empty_folder(wheel: Path, tmp_path: Path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; from fedlora.units_path import add_units_to_path; add_units_to_path();"
        "import server.rounds, client.round, strategies.registry, simulations.run;"
        "print(server.__file__); assert 'units' in server.__file__"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=empty, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stdout
    shown = subprocess.run(
        [sys.executable, "-m", "fedlora", "config", "show", "train"],
        cwd=empty, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "train.lr" in shown.stdout, shown.stderr


def test_a_checkout_runs_from_another_folder(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "fedlora", "config", "check", str(ROOT / "simulations/recipes/six-airlines.yaml")],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "name: six-airlines" in done.stdout
