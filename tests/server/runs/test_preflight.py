"""Who submits a run hears what the coordinator knows of it; what cannot work with its files is refused there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from client.deployment.enroll import ask
from fedlora.cli import load_command
from fedlora.config import Recipe, override
from fedlora.plain_yaml import yaml_text
from fedlora.settings import SettingsError, parse
from server.runs.preflight import look_before
from server.settings import HeldOut, ServerSettings
from server.trust.provision import approve, initialise

TEST_SET = "text,label\n" + "".join(f"message {number},{'yes' if number % 4 else 'no'}\n" for number in range(100))


@pytest.fixture
def settings(tmp_path) -> ServerSettings:
    made = initialise(tmp_path / "server", name="net", address="127.0.0.1:1")
    approve(made, ask(tmp_path / "north", site="north"))
    return made


def with_test_set(settings: ServerSettings, content: str = TEST_SET, **values: object) -> ServerSettings:
    path = settings.folder / "test.csv"
    path.write_text(content)
    return settings.model_copy(update={"held_out": HeldOut(file=path), **values})


def recipe(*overrides: str) -> Recipe:
    return parse(Recipe, override({}, overrides))


def test_classes_and_test_set_are_said_with_their_shares(settings):
    said = look_before(with_test_set(settings), recipe())
    assert said == ["classes   no, yes", "test set  100 of 100 rows: no 25 (25 %), yes 75 (75 %)"]


def test_what_may_still_come_right_is_said_and_not_refused(settings):
    overrides = ("data.labels=[yes, Yes ]", "rounds.min_clients=3", "devices.nort.r=1", "strategy.name=hetlora")
    said = "\n".join(look_before(settings, recipe(*overrides)))
    assert "careful   the classes 'yes' and 'Yes' differ only in case or spaces" in said
    assert "careful   no held_out in server.yaml" in said
    assert "careful   rounds.min_clients=3, and 1 sites are approved: the run will wait" in said
    assert "careful   devices.nort is not an approved site; did you mean 'north'?" in said


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        (TEST_SET, ["data.labels=[No, yes]"], r"held_out in server\.yaml has the class 'no', but the run has No, yes; "
                                              r"is it 'No'\?"),
        (TEST_SET + "one,two,three\n", [], r"test\.csv:102: more cells than columns"),
        ("text,label\nhi,yes\n", [], "the model's head needs the list of classes"),
        ("text,label\n" + "".join(f"t {n},at {n}\n" for n in range(300)), [], "has 300 different values in it"),
        (TEST_SET, ["train.optimizer=adamw", "train.momentum=0.5"], r"train\.momentum=0\.5 has no effect"),
        (TEST_SET, ["strategy.name=fedsdv"], r"unknown strategy\.name 'fedsdv'; did you mean 'fedsvd'\?"),
        (TEST_SET, ["model.id=./demoo"], "demoo"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(settings, content, overrides, message):
    with pytest.raises(SettingsError, match=message):
        look_before(with_test_set(settings, content), recipe(*overrides))


@pytest.mark.parametrize("overrides", [["privacy.epsilon=3", "privacy.adapt={below: 0.8}"], ["mode=alone"]])
def test_what_does_not_go_with_the_coordinators_own_files_is_refused(settings, overrides):
    with pytest.raises(SettingsError, match=r"there are none: set held_out in server\.yaml|mode='alone'"):
        look_before(settings.model_copy(update={"labels": ("a", "b")}), recipe(*overrides))


def test_a_run_that_is_refused_is_not_submitted(settings, tmp_path):
    path: Path = tmp_path / "recipe.yaml"
    path.write_text(yaml_text({"name": "first"}))
    words = ["run", str(path), "--config", str(settings.folder / "server.yaml")]
    done = CliRunner().invoke(load_command("server"), words)
    assert isinstance(done.exception, SettingsError)
    assert not (settings.runs / "first").exists()
    done = CliRunner().invoke(load_command("server"), [*words, "--set", "data.labels=[a, b]"])
    assert "classes   a, b" in done.output
    assert "first is submitted" in done.output
