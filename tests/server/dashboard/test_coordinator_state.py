"""What is wrong at the coordinator is in its file, and on the page; nothing is shown where nothing is wrong."""

from __future__ import annotations

import time

import pytest

from fedlora.config import Recipe
from fedlora.processes.duties import Conditions
from server.dashboard.pages.coordinator_state import trouble
from server.deployment.said import LATE_S, read_said, write_said
from server.deployment.up import Duties
from server.runs.submissions import submit
from server.trust.provision import initialise
from tests.server.fakes import FakeControl, FakeSupervisor


def test_what_is_wrong_is_shown_and_what_is_well_is_not(tmp_path):
    conditions = Conditions(clock=lambda: 100.0)
    conditions.say("sites", None)
    write_said(tmp_path, conditions.all(), at=200.0)
    assert trouble(read_said(tmp_path), now=200.0) == ""
    conditions.say("run old", "<b>submission.json</b> is damaged")
    write_said(tmp_path, conditions.all(), at=200.0)
    shown = trouble(read_said(tmp_path), now=200.0)
    assert "run old" in shown
    assert "&lt;b&gt;submission.json" in shown
    assert "1970-01-01 00:01:40 UTC" in shown
    assert "sites" not in shown


def test_a_coordinator_that_is_silent_is_said(tmp_path):
    write_said(tmp_path, {}, at=200.0)
    assert trouble(read_said(tmp_path), now=200.0 + LATE_S - 1) == ""
    assert "has not reported" in trouble(read_said(tmp_path), now=200.0 + LATE_S + 1)
    assert trouble(None) == ""


@pytest.mark.parametrize("text", ["", "[]", '{"at": 1}', '{"at": 1, "wrong": {"a": 1}}'])
def test_a_damaged_file_says_nothing(tmp_path, text):
    (tmp_path / "coordinator.json").write_text(text)
    assert read_said(tmp_path) is None


def test_a_coordinator_writes_down_what_is_wrong(tmp_path):
    settings = initialise(tmp_path / "server", name="net", address="x:1")
    (submit(settings, Recipe(), name="old") / "submission.json").write_text("")
    duties = Duties(settings, FakeControl())
    duties.look(FakeSupervisor(pid=1))  # type: ignore[arg-type]  # as much of it as is used
    duties.flower.turn()
    duties._write_down()
    said = read_said(settings.folder)
    assert said is not None
    assert abs(said.at - time.time()) < LATE_S
    assert "damaged" in said.wrong["run old"].why
