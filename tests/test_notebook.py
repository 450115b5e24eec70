"""The first notebook is a run in ten lines, and what it shows is what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.terminal.pictures import draw_curves
from tests.notebooks import run

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "first_run.ipynb"


def kinds(outputs: list[dict]) -> list[list[str]]:
    return [sorted(output.get("data", {"stream": None})) for output in outputs]


def code_cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_is_ten_lines_and_carries_its_pictures():
    cells = code_cells()
    assert len([line for cell in cells[:2] for line in cell["source"] if line.strip()]) <= 10, "and one that predicts"
    assert [kinds(cell["outputs"]) for cell in cells] == [
        [["stream"]],
        [["stream"], ["image/png", "text/plain"]],
        [["text/plain"]],
    ]


@pytest.mark.slow
def test_it_runs_and_shows_what_it_carries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("simulations.run.draw_curves", draw_curves)  # as it ships
    outputs = run(NOTEBOOK)
    assert [kinds(found) for found in outputs] == [kinds(cell["outputs"]) for cell in code_cells()]
    said = "".join(outputs[0][0]["text"])
    assert said.count("round ") == 4
    assert "'label': 'bad'" in "".join(outputs[2][0]["data"]["text/plain"])
