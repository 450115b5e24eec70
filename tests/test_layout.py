"""The layout is a promise: the folders, what they say of themselves, the names they export."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"fedlora", "strategies", "server", "client", "simulations"}


def test_the_packages_are_the_four_units_and_fedlora():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == {*PACKAGES, "tests"}


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_every_package_says_whose_machine_it_runs_on(name):
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", ["fedlora.adapters", "fedlora.config"])
def test_exported_names_are_sorted_and_there(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, exported) for exported in module.__all__)
