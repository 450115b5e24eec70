"""The runs, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fedlora.gate.runs import run_of_texts, swapped
from tests.fedlora.results.runs import run_of_answers


@pytest.fixture(scope="package")
def honest(tmp_path_factory, tiny_model, messages) -> Path:
    return run_of_texts(tmp_path_factory.mktemp("honest") / "run", tiny_model, messages)


@pytest.fixture(scope="package")
def wrong(tmp_path_factory, tiny_model, messages) -> Path:
    """Trained to call good what is bad."""
    folder = tmp_path_factory.mktemp("wrong")
    return run_of_texts(folder / "run", tiny_model, swapped(messages, folder / "swapped.csv"))


@pytest.fixture(scope="package")
def answers(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_answers(tmp_path_factory.mktemp("answers"))
