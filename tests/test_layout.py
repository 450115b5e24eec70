"""The layout is a promise: the folders, what they say of themselves, the names they export."""

from __future__ import annotations

import ast
import importlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedlora.tasks.registry import TASKS
from strategies.registry import STRATEGIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fedlora", "strategies", "server", "client", "simulations"}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LARGE = {"strategies", "server/store", "fedlora/privacy", "fedlora"}
"""Folders of one idea, whatever it takes. A long list anywhere else is two."""


def test_the_packages_are_the_four_units_and_fedlora():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*PACKAGES, "tests"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_every_package_says_whose_machine_it_runs_on(name):
    assert importlib.import_module(name).__doc__


def test_every_folder_of_the_code_is_in_the_architecture_s_map():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## The folders")[1].split("```")[1]
    named = set(re.findall(r"\w+", text))
    assert {str(path.parent.relative_to(ROOT)) for path in FILES if path.parent.name not in named} <= {
        "server/store/migrations/versions"
    }


def test_a_folder_is_a_list_that_one_can_read():
    counts = Counter(str(path.parent.relative_to(ROOT)) for path in FILES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > 14 and folder not in LARGE} == {}


def test_a_file_is_read_in_one_sitting():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}


def names_asked_for(path: Path) -> set[str]:
    """Strategies and tasks that the file compares something with."""
    asked = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Compare | ast.MatchValue)]
    inside = (inner for node in asked for inner in ast.walk(node))
    return {str(node.value) for node in inside if isinstance(node, ast.Constant)} & (STRATEGIES.keys() | TASKS.keys())


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_nobody_asks_for_a_strategy_or_a_task_by_its_name(package):
    """What others have to know of one is a trait, so that the next one needs no line of theirs."""
    asked = {path.relative_to(ROOT): names_asked_for(path) for path in (ROOT / package).rglob("*.py")}
    own = {Path("strategies") / f"{name}.py" for name in STRATEGIES}
    assert {str(path): names for path, names in asked.items() if names and path not in own} == {}


def fields_set(function: ast.AST) -> Iterator[str]:
    """Names that the function gives to attributes of `self`."""
    stored = (n for n in ast.walk(function) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store))
    return (node.attr for node in stored if isinstance(node.value, ast.Name) and node.value.id == "self")


def late_fields(kind: ast.ClassDef) -> set[str]:
    """Fields that an object of this class has only once some method has run."""
    own = {n.target.id for n in kind.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    methods = {n.name: set(fields_set(n)) for n in kind.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    return set().union(*methods.values()) - own - methods.get("__init__", set())


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_an_object_has_all_of_its_fields_when_it_is_made(package):
    late = {
        f"{path.relative_to(ROOT)} {node.name}": fields
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and (fields := late_fields(node))
    }
    assert late == {}


@pytest.mark.parametrize("name", ["fedlora.adapters", "fedlora.config"])
def test_exported_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, exported) for exported in module.__all__)
