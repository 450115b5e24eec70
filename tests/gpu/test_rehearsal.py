"""`make gpu` rehearsed on a CPU, every part of it; and the page says what a GPU has written, or that none has."""

from __future__ import annotations

import json

import pytest

from fedlora.processes.memory import ran_out_of_memory
from tests.gpu import page
from tests.gpu.__main__ import PARTS, measured, stands
from tests.gpu.wheels import missing


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_part_runs_on_a_cpu_at_its_tiny_size_and_what_must_hold_holds(tmp_path):
    found = measured("cpu", "tiny", tmp_path, list(PARTS))
    assert stands(found), found
    assert all(part["rows"] for part in found["parts"].values())
    assert json.loads((tmp_path / "gpu.json").read_text()) == found
    steps = [row for row in found["parts"]["steps"]["rows"] if row["what"] == "step"]
    assert {row["way"] for row in steps if row.get("seconds", 0) > 0} == {"plain", "private A+B", "private B"}
    figures = page.figures_of(found)
    assert all(f"### {name.capitalize()}" in figures for name in PARTS)
    assert "Not run yet" not in figures


def test_what_does_not_hold_or_fails_is_no_success():
    held, broken = {"rows": [{"holds": True}]}, {"rows": [{"holds": False}]}
    assert stands({"parts": {"a": held}})
    assert not stands({"parts": {"a": held, "b": broken}})
    assert not stands({"parts": {"a": {**held, "failed": "RuntimeError"}}})


def test_a_part_that_fails_costs_itself_alone_and_what_was_found_before_stays(tmp_path, monkeypatch):
    def failing(device, size, box):
        yield {"what": "first"}
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setitem(PARTS, "steps", (failing, 1.0))
    monkeypatch.setitem(PARTS, "wire", (lambda device, size, box: iter([{"what": "wire"}]), 1.0))
    found = measured("cpu", "tiny", tmp_path, ["steps", "wire"])
    assert found["parts"]["steps"]["rows"] == [{"what": "first"}]
    assert "out of memory" in found["parts"]["steps"]["failed"]
    assert found["parts"]["wire"]["rows"] == [{"what": "wire"}]
    assert ran_out_of_memory(RuntimeError(found["parts"]["steps"]["failed"]))


def test_all_parts_together_take_at_most_eight_minutes():
    assert sum(seconds for _, seconds in PARTS.values()) <= 480


def test_the_page_says_what_a_gpu_has_written_or_that_none_has():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.with_figures(text, page.recorded())


def test_wheels_are_of_what_is_needed_and_not_there_already():
    found = missing(("typer", "nothing-of-that-name"), frozenset({"rich"}), python="3.12")
    assert {"typer", "click"} <= found.keys()
    assert not {"rich", "pygments", "nothing-of-that-name"} & found.keys()
