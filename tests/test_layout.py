"""The layout is a promise: the folders, what they say of themselves, the names they export."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from strategies.registry import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fedlora", "strategies", "server", "client", "simulations"}


def test_the_packages_are_the_four_units_and_fedlora():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*PACKAGES, "tests"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_every_package_says_whose_machine_it_runs_on(name):
    assert importlib.import_module(name).__doc__


def names_asked_for(path: Path) -> set[str]:
    """Strategies that the file compares something with."""
    asked = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare | ast.MatchValue)]
    inside = (inner for node in asked for inner in ast.walk(node))
    return {str(node.value) for node in inside if isinstance(node, ast.Constant)} & STRATEGIES.keys()


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_nobody_asks_for_a_strategy_by_its_name(package):
    """What others have to know of one is a trait, so that the next one needs no line of theirs."""
    asked = {path.relative_to(ROOT): names_asked_for(path) for path in (ROOT / package).rglob("*.py")}
    own = {Path("strategies") / f"{name}.py" for name in STRATEGIES}
    assert {str(path): names for path, names in asked.items() if names and path not in own} == {}


@pytest.mark.parametrize("name", ["fedlora.adapters", "fedlora.config"])
def test_exported_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, exported) for exported in module.__all__)
