"""The wheel puts only `fedlora` into site-packages and works from an empty folder, as an editable install does."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNITS = ("server", "client", "strategies", "simulations")
IMPORT_UNITS = (
    "from fedlora.units_path import add_units_to_path; add_units_to_path();"
    "import server.rounds, client.round, strategies.registry, simulations.run; print(server.__file__)"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheel, built by hatchling without network or isolation."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty virtual environment that sees the dependencies of this one behind its own packages."""
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=tmp_path)
    (site_packages(folder) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def run(*command: object, cwd: Path) -> str:
    """Standard output of a command that must succeed, with nothing inherited that could find the checkout."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


def install(environment: Path, *what: object, cwd: Path) -> set[str]:
    """Install without dependencies; what that added to site-packages."""
    before = {path.name for path in site_packages(environment).iterdir()}
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-build-isolation",
        "--no-index", *what, cwd=cwd)  # fmt: skip
    return {path.name for path in site_packages(environment).iterdir()} - before


def test_only_fedlora_is_at_the_top_of_the_wheel(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"fedlora"}
    assert {f"fedlora/units/{unit}/__init__.py" for unit in UNITS} <= set(names)
    assert "fedlora/units/simulations/recipes/six-airlines.yaml" in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_every_file_of_the_units_that_is_not_code_travels_too(wheel: Path):
    tracked = subprocess.run(["git", "ls-files", *UNITS, "fedlora"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = [name if name.startswith("fedlora/") else f"fedlora/units/{name}" for name in tracked.stdout.split()]
    assert [name for name in wanted if name not in inside] == []


def test_the_installed_wheel_runs_from_an_empty_folder(wheel: Path, environment: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    added = install(environment, wheel, cwd=empty)
    assert {name for name in added if not name.endswith(".dist-info")} == {"fedlora"}
    found = run(environment / "bin" / "python", "-c", IMPORT_UNITS, cwd=empty)
    assert Path(found.strip()) == site_packages(environment) / "fedlora/units/server/__init__.py"
    shown = run(environment / "bin" / "fedlora", "simulate", "--help", cwd=empty)
    assert "six-airlines" in shown
    names = run(
        environment / "bin" / "python",
        "-c",
        "import fedlora; print([one.name for one in fedlora.strategies()])",
        cwd=empty,
    )
    assert "fedsvd" in names
    assert (site_packages(environment) / "fedlora/py.typed").exists()


def test_an_editable_installation_uses_the_checkout(environment: Path, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    added = install(environment, "-e", ROOT, cwd=empty)
    assert {name for name in added if not name.endswith((".dist-info", ".pth"))} == set(), "no copy that grows old"
    found = run(environment / "bin" / "python", "-c", IMPORT_UNITS, cwd=empty)
    assert Path(found.strip()) == ROOT / "server" / "__init__.py"
    shown = run(environment / "bin" / "fedlora", "config", "show", "train", cwd=empty)
    assert "train.lr" in shown


def test_a_checkout_runs_without_any_installation(tmp_path: Path):
    recipe = ROOT / "simulations/recipes/six-airlines.yaml"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['fedlora', 'config', 'check', {str(recipe)!r}]; "
    )
    shown = run(sys.executable, "-c", code + "from fedlora.cli import main; main()", cwd=tmp_path)
    assert "name: six-airlines" in shown


def test_processes_started_from_here_find_the_units_too(tmp_path: Path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from fedlora.units_path import add_units_to_path; "
    code += "add_units_to_path(); import subprocess; "
    code += "print(subprocess.check_output([sys.executable, '-c', 'import strategies; print(strategies.__file__)']))"
    assert str(ROOT / "strategies") in run(sys.executable, "-c", code, cwd=tmp_path)
