"""`fedlora gate`: planted broken adapters are held, an honest one passes, and `fedlora export` obeys."""

from __future__ import annotations

import getpass
import json

import pytest
import torch
import yaml

from fedlora.settings import SettingsError
from tests.fedlora.exports.command import export
from tests.fedlora.gate.runs import check, copied, gated, planted


@pytest.fixture(scope="module")
def passed(honest, messages, tmp_path_factory):
    """An honest run that was looked at."""
    run = copied(honest, tmp_path_factory.mktemp("passed") / "run")
    return run, *gated(run, "--on", messages, "--against", honest)


@pytest.fixture
def held(wrong, messages, tmp_path):
    run = copied(wrong, tmp_path / "held")
    return run, *gated(run, "--on", messages)


def test_an_honest_adapter_passes_and_is_exported_with_what_was_looked_at_on_its_card(passed, tmp_path):
    run, status, found, _ = passed
    assert (status, found["passed"], found["held_by"]) == (0, True, [])
    names = ["shapes", "numbers", "change", "base", "last published", "guessing"]
    assert [one["name"] for one in found["checks"]] == names
    assert check(found, "last published")["figures"]["difference"] == 0
    export(run, "--out", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["gate"] == {"passed": True, "checks": dict.fromkeys(names, "passed")}


def test_one_that_learnt_the_wrong_classes_is_held_although_its_base_with_that_head_is_no_better(held):
    _, status, found, said = held
    assert (status, found["held_by"]) == (1, ["guessing"])
    assert "HELD    guessing: Accuracy is -0." in said


def test_it_is_worse_than_what_was_published_before(wrong, honest, messages, tmp_path):
    status, found, _ = gated(copied(wrong, tmp_path / "run"), "--on", messages, "--against", honest)
    assert (status, set(found["held_by"])) == (1, {"guessing", "last published"})
    one = check(found, "last published")
    assert one["figures"]["difference"] + one["thresholds"]["margin"] < 0


@pytest.mark.parametrize(
    ("change", "by"),
    [
        (lambda name, tensor: tensor * float("nan") if "lora_B" in name else tensor, "numbers"),
        (lambda name, tensor: tensor * 1e4 if "lora_B" in name else tensor, "change"),
        (lambda name, tensor: torch.cat([tensor, tensor]) if "lora_B" in name else tensor, "shapes"),
    ],
)
def test_broken_tensors_are_held_and_never_exported(honest, messages, tmp_path, change, by):
    run = planted(honest, tmp_path / "run", change)
    status, found, _ = gated(run, "--on", messages)
    assert status == 1
    assert by in found["held_by"]
    assert not check(found, by)["passed"]
    with pytest.raises(SettingsError, match=r"the gate holds .*run/adapter: "):
        export(run)
    assert not (run / "exports").exists()


def test_what_is_held_is_exported_only_with_a_reason_that_stands_in_the_file_and_on_the_card(held, tmp_path):
    run, *_ = held
    with pytest.raises(SettingsError, match=r"the gate holds .* Accuracy is -0\..*or --override REASON"):
        export(run, "--out", tmp_path / "out")
    with pytest.raises(SettingsError, match=r"--override: say why"):
        export(run, "--out", tmp_path / "out", "--override", " ")
    assert not (tmp_path / "out").exists()
    export(run, "--out", tmp_path / "out", "--override", "a study of label noise")
    (override,) = json.loads((run / "adapter" / "gate.json").read_text())["overrides"]
    assert (override["who"], override["why"], override["held_by"]) == (
        getpass.getuser(), "a study of label noise", ["guessing"],
    )  # fmt: skip
    on_card = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])["gate"]
    assert (on_card["passed"], on_card["checks"]["guessing"], on_card["overrides"]) == (False, "held", [override])
    with pytest.raises(SettingsError, match=r"the gate holds"):
        export(run, "--out", tmp_path / "again")


def test_a_look_at_less_does_not_let_it_go(held):
    run, *_ = held
    status, found, _ = gated(run)
    assert status == 1
    assert "guessing" in found["held_by"]
    assert check(found, "recorded")


def test_tensors_that_changed_since_are_looked_at_again_first(passed, tmp_path):
    run, *_ = passed
    changed = planted(run, tmp_path / "run", lambda name, tensor: tensor * 1.01)
    (changed / "adapter" / "gate.json").write_bytes((run / "adapter" / "gate.json").read_bytes())
    with pytest.raises(SettingsError, match=r"has changed since the gate looked at it; run `fedlora gate` again"):
        export(changed)


def test_a_reason_for_nothing_is_refused_and_so_is_a_comparison_without_rows(passed, honest, tmp_path):
    run, *_ = passed
    with pytest.raises(SettingsError, match=r"the gate holds nothing here; leave it out"):
        export(run, "--out", tmp_path / "out", "--override", "just so")
    with pytest.raises(SettingsError, match=r"--against is compared on rows; give them with --on FILE"):
        gated(run, "--against", honest)


def test_a_bound_is_the_recipe_s_and_may_be_moved_for_once(honest, messages, tmp_path):
    status, found, _ = gated(copied(honest, tmp_path / "run"), "--on", messages, "--set", "change=0.001")
    assert (status, found["held_by"]) == (1, ["change"])
    with pytest.raises(SettingsError, match=r"unknown setting gate\.chnage; did you mean gate\.change"):
        gated(tmp_path / "run", "--on", messages, "--set", "chnage=1")


def test_the_record_of_the_run_stands_in_where_no_file_is_given(honest, tmp_path):
    status, found, _ = gated(copied(honest, tmp_path / "run"))
    one = check(found, "recorded")
    evaluation = json.loads((honest / "adapter" / "fedlora.json").read_text())["made"]["evaluation"]
    majority = json.loads((honest / "summary.json").read_text())["majority"]
    assert one["figures"]["difference"] == pytest.approx(evaluation["accuracy"] - majority)
    assert one["passed"] == (status == 0)
