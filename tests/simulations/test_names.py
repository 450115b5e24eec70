"""Clients are named by the data: whatever the names are, nothing is written outside the run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.data.site_files import write_site_files
from tests.federations import CLIENTS, run

NAMES = dict(zip(CLIENTS, ("../../../escaped", "/etc", "..", "a/../../b"), strict=True))


@pytest.fixture
def hostile(messages, tmp_path) -> str:
    lines = Path(messages).read_text().splitlines()
    renamed = [lines[0]] + [f"{line.rpartition(',')[0]},{NAMES[line.rpartition(',')[2]]}" for line in lines[1:]]
    path = tmp_path / "hostile.csv"
    path.write_text("\n".join(renamed) + "\n")
    return str(path)


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    "settings", [("privacy.epsilon=8", "privacy.delta=1e-3"), ("strategy.name=fedsa",), ("mode=alone",)]
)
def test_a_run_stays_in_its_folder(recipe, hostile, tmp_path, settings):
    out = tmp_path / "deep" / "down" / "below" / "run"
    out.parent.mkdir(parents=True)
    before = everything(tmp_path)
    summary = run(recipe(f"data.source={hostile}", "rounds.count=1", *settings), out)
    assert set(summary["accuracy_by_client"]) == set(NAMES.values())
    new = everything(tmp_path) - before
    assert new
    assert all(path.is_relative_to(out) for path in new)


def test_site_files_stay_in_their_folder(recipe, hostile, tmp_path):
    out = tmp_path / "deep" / "down" / "below" / "files"
    before = everything(tmp_path)
    assert set(write_site_files(recipe(f"data.source={hostile}"), out)) == set(NAMES.values())
    assert all(path.is_relative_to(tmp_path / "deep") for path in everything(tmp_path) - before)
    assert len(list(out.glob("*/train.csv"))) == len(NAMES)
