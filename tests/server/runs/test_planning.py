"""A plan ends, whatever the recipe: with sizes, or with words."""

from __future__ import annotations

import json
import os

import pytest

from fedlora.config import override
from fedlora.settings import SettingsError, parse
from server.runs import planning
from server.runs.planning import MOST_AT_ONCE, PlanError, sizes
from simulations.planned_bytes import planned_bytes
from tests.federations import tiny_recipe


@pytest.fixture
def recipe(tiny_model):
    return tiny_recipe(tiny_model, "airlines")


@pytest.mark.slow
def test_sizes_are_those_of_wire_plan(recipe):
    here = planned_bytes(recipe, clients=6)
    assert sizes(recipe) == {name: here[name] for name in ("bytes_up", "bytes_down", "dense_fp32")}


def test_a_plan_that_takes_too_long_is_stopped_with_its_process(recipe, monkeypatch):
    started, popen = [], planning.subprocess.Popen
    monkeypatch.setattr(
        planning.subprocess, "Popen", lambda *args, **named: started.append(popen(*args, **named)) or started[-1]
    )
    with pytest.raises(PlanError, match="took longer than 0 s and was stopped; plan it at a terminal"):
        sizes(recipe, timeout_s=0.0)
    (child,) = started
    assert child.returncode == -9
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_where_memory_cannot_be_bounded_time_is(recipe, monkeypatch):
    monkeypatch.delattr(planning.resource, "prlimit")  # as on a Mac
    with pytest.raises(PlanError, match="took longer than 0 s"):
        sizes(recipe, timeout_s=0.0)


def test_no_more_are_made_at_once_than_the_machine_bears(recipe):
    for _ in range(MOST_AT_ONCE):
        planning._slots.acquire()
    try:
        with pytest.raises(PlanError, match="2 plans are being computed already; try again when one is finished"):
            sizes(recipe)
    finally:
        planning._slots.release(MOST_AT_ONCE)
    with pytest.raises(PlanError, match="took longer"):
        sizes(recipe, timeout_s=0.0)
    with pytest.raises(PlanError, match="took longer"):
        sizes(recipe, timeout_s=0.0)
    with pytest.raises(PlanError, match="took longer"):
        sizes(recipe, timeout_s=0.0)  # a failure gives its place back


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.id=./nowhere"], "the bytes cannot be planned: model.id='./nowhere' is not a folder."),
        pytest.param(
            ["adapter.targets=[nothing]"], "the bytes cannot be planned: ", marks=pytest.mark.long, id="no such matrix"
        ),
    ],
)
def test_what_the_child_says_is_passed_on_without_a_traceback(recipe, changes, said):
    asked = parse(type(recipe), override(recipe.model_dump(mode="json"), changes))
    with pytest.raises(SettingsError) as refused:
        sizes(asked)
    assert str(refused.value).startswith(said)
    assert "Traceback" not in str(refused.value)
    assert len(str(refused.value)) < 1000


@pytest.mark.slow
def test_a_plan_that_needs_too_much_memory_says_so(recipe):
    asked = parse(type(recipe), override(json.loads(recipe.model_dump_json()), ["adapter.r=200000000"]))
    with pytest.raises(SettingsError, match=r"cannot be planned: .*(needs more than the [0-9.]+ GB|adapter\.r)"):
        sizes(asked)
