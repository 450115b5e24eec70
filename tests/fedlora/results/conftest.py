"""The runs, once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fedlora.results.runs import (
    run_of_answers,
    run_of_pairs,
    run_of_pictures,
    run_of_sums,
    run_of_tags,
    run_of_texts,
)


@pytest.fixture(scope="package")
def texts(tmp_path_factory, tiny_model, messages) -> Path:
    return run_of_texts(tmp_path_factory.mktemp("texts") / "run", tiny_model, messages)


@pytest.fixture(scope="package")
def answers(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_answers(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="package")
def pictures(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="package")
def pairs(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="package")
def tags(tmp_path_factory, tiny_model) -> tuple[Path, Path]:
    return run_of_tags(tmp_path_factory.mktemp("tags"), tiny_model)


@pytest.fixture(scope="package")
def choices(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_sums(tmp_path_factory.mktemp("choices"), "multiple-choice", "choices")


@pytest.fixture(scope="package")
def judged(tmp_path_factory) -> tuple[Path, Path]:
    return run_of_sums(tmp_path_factory.mktemp("judged"), "unpaired-preference", "unpaired-preference")
