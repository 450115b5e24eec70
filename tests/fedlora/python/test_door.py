"""`import fedlora` gives six names, at once and without torch; each does what its line in the docstring says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fedlora

NAMES = ["Recipe", "compare", "federate", "load", "simulate", "strategies"]
ROOT = Path(__file__).resolve().parents[3]
UNITS = ("server", "client", "strategies", "simulations")
DOORS = {
    "cli.py", "federated.py", "flower.py", "python/running.py", "python/strategies.py",
}  # fmt: skip
"""Files that find what stands above `fedlora` by its name, when it is called; the import linter cannot see them."""


def test_the_exported_names_are_these_and_no_others():
    assert fedlora.__all__ == NAMES
    assert [name for name in dir(fedlora) if not name.startswith("_")] == NAMES
    assert all(callable(getattr(fedlora, name)) for name in NAMES)
    assert all(name in fedlora.__doc__ for name in NAMES)


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match="fedlora has no 'train'; it has: Recipe, compare"):
        fedlora.train  # noqa: B018


def test_the_import_loads_nothing():
    code = "import fedlora, sys; print(sorted(n for n in ('torch', 'pydantic', 'fedlora.config') if n in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_it_is_typed():
    assert (Path(fedlora.__file__).parent / "py.typed").exists()


def named_units(file: Path) -> set[str]:
    """Texts in a file that are the name of a unit's module, or of something in one."""
    texts = (node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant))
    places = [text.partition(":")[0].split(".") for text in texts if isinstance(text, str)]
    return {".".join(place) for place in places if place[0] in UNITS and len(place) > 1 and is_module(*place[:2])}


def is_module(unit: str, name: str) -> bool:
    return (ROOT / unit / f"{name}.py").exists() or (ROOT / unit / name / "__init__.py").exists()


def test_only_the_doors_name_what_stands_above_them():
    package = ROOT / "fedlora"
    found = {str(file.relative_to(package)) for file in package.rglob("*.py") if named_units(file)}
    assert found <= DOORS


def test_strategies_are_told_with_what_they_guarantee():
    found = {one.name: one for one in fedlora.strategies()}
    assert (found["fedsvd"].exact, found["fedsvd"].private) == (True, True)
    assert found["ffa"].trains == ("B", "head")
    assert all(one.paper and one.summary for one in found.values())
