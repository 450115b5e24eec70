"""A site runs nobody's code that its policy does not list: a task that names some is refused before an import."""

from __future__ import annotations

import sys

import pytest

from client.round import answer
from client.site import Parts, Site
from fedlora.config import ModelSettings, TrainSettings
from fedlora.plugins.gate import hash_of, open_to, opened_to
from fedlora.privacy.policy import Policy
from tests.plugins.places import installed
from tests.strategies.test_asks import task

NOTHING = Parts(None, None)
NAME = "not_read_yet:Thing"
ASKED = {
    "strategy": {"strategy": NAME},
    "task": {"model": ModelSettings(task=NAME)},
    "optimizer": {"train": TrainSettings(optimizer=NAME)},
}


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    (tmp_path / "not_read_yet.py").write_text("ran = True\nThing = 0\n")
    before = opened_to()
    open_to({})
    with installed(monkeypatch, tmp_path):
        yield
    open_to(before)
    sys.modules.pop("not_read_yet", None)


def code_for(asked, tmp_path, **listed) -> str | None:
    policy = Policy(base_models="any", **listed)
    site = Site("blue", NOTHING, tmp_path / "site", policy=policy)
    changes = dict(asked)
    named = changes.pop("strategy", "fedit")
    return answer(task(named, ("A", "B", "head"), **changes), b"", site)[0].code


@pytest.mark.parametrize("what", ASKED)
def test_a_name_of_somebodys_code_is_refused_and_nothing_of_it_runs(what, tmp_path):
    assert code_for(ASKED[what], tmp_path) == "plug-in-not-allowed"
    assert "not_read_yet" not in sys.modules


@pytest.mark.parametrize("what", ASKED)
def test_a_package_with_another_hash_is_refused(what, tmp_path):
    assert code_for(ASKED[what], tmp_path, plugins={"not_read_yet": "0" * 64}) == "plug-in-not-allowed"
    assert "not_read_yet" not in sys.modules


@pytest.mark.parametrize("what", ASKED)
def test_a_package_that_is_listed_is_not_refused_for_being_one(what, tmp_path):
    assert code_for(ASKED[what], tmp_path, plugins={"not_read_yet": hash_of("not_read_yet")}) != "plug-in-not-allowed"


def test_the_process_is_open_to_what_the_policy_lists_and_no_more(tmp_path):
    listed = {"not_read_yet": hash_of("not_read_yet")}
    code_for({}, tmp_path, plugins=listed)
    assert opened_to() == listed
    code_for({}, tmp_path)
    assert opened_to() == {}
