"""`fedlora privacy plan` and `fedlora ledger show|verify|export` as a person or a machine calls them."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest
from click.testing import CliRunner

from fedlora.cli import load_command
from fedlora.privacy.ledger import LedgerFiles
from fedlora.privacy.policy import SIMULATION
from fedlora.settings import SettingsError
from tests.privacy.tasks import STATE, guard, task


def run(*arguments: str):
    name, *rest = arguments
    return CliRunner().invoke(load_command(name), rest)


@pytest.fixture
def site(tmp_path):
    here = guard(tmp_path, SIMULATION, dataset="default")
    for run_name, rounds in (("run-1", 2), ("run-2", 1)):
        for number in range(1, rounds + 1):
            asked = task(run=run_name, round=number, privacy={"noise_multiplier": 1.0})
            here.authorise(asked, STATE, examples=2400)
    return tmp_path


def test_plan_prints_a_table_and_json():
    arguments = ["privacy", "plan", "--epsilon", "6", "--examples", "2400", "--batch", "64", "--rounds", "5"]
    shown = run(*arguments)
    assert shown.exit_code == 0
    assert "one example added or removed" in shown.output
    assert "fedsvd" in shown.output
    planned = json.loads(run(*arguments, "--json").output)
    assert planned["adjacency"] == "add-or-remove-one"
    assert planned["clients"][0]["epsilon_by_round"][-1][1] <= 6.0
    assert [item["strategy"] for item in planned["strategies"]] == ["fedit", "ffa", "fedsvd", "fedsb"]


def test_plan_says_what_cannot_be():
    found = run("privacy", "plan", "--examples", "2400", "--delta", "0.01")
    assert isinstance(found.exception, SettingsError)
    assert "choose a smaller delta" in str(found.exception)


def test_ledger_show_composes_runs(site):
    spent = json.loads(run("ledger", "show", str(site), "--json").output)
    by_run = {row["run"]: row for row in spent["spent"]}
    assert [by_run[name]["charges"] for name in ("run-1", "run-2", "all runs together")] == [2, 1, 3]
    assert by_run["run-2"]["epsilon"] < by_run["run-1"]["epsilon"] < by_run["all runs together"]["epsilon"]
    assert "secure" in run("ledger", "show", str(site)).output


def test_ledger_verify_is_sound_and_then_is_not(site):
    assert "default: sound: 3 entries" in run("ledger", "verify", str(site)).output
    path = LedgerFiles(site, "default").ledger
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    found = run("ledger", "verify", str(site))
    assert found.exit_code == 1
    assert "DAMAGED: it was cut: 2 entries are left of 3; certain before it: 2 entries" in found.output
    (row,) = json.loads(run("ledger", "verify", str(site), "--json").output)
    assert row["problem"] == "it was cut: 2 entries are left of 3"


def test_ledger_export_is_csv_or_json_lines(site):
    rows = list(csv.DictReader(io.StringIO(run("ledger", "export", str(site)).output)))
    assert [row["run"] for row in rows] == ["run-1", "run-1", "run-2"]
    lines = run("ledger", "export", str(site), "--json").output.splitlines()
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2, 3]


def test_a_deployed_sites_own_folder_is_enough(site, tmp_path):
    folder = tmp_path / "deployed"
    shutil.copytree(site / "privacy", folder / "state" / "privacy")
    for command in ("show", "verify", "export"):
        assert run("ledger", command, str(folder)).output == run("ledger", command, str(folder / "state")).output
    assert "sound: 3 entries" in run("ledger", "verify", str(folder)).output


def test_a_folder_without_a_ledger_is_said_to_be_one(tmp_path):
    found = run("ledger", "show", str(tmp_path))
    assert isinstance(found.exception, SettingsError)
    assert "contains no ledger" in str(found.exception)


def test_a_damaged_ledger_shows_what_is_certain_and_that_there_may_be_more(site):
    path = LedgerFiles(site, "default").ledger
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    found = run("ledger", "show", str(site))
    assert found.exit_code == 1
    assert "DAMAGED: it was cut: 2 entries are left of 3. More may have been spent" in found.output
    shown = json.loads(run("ledger", "show", str(site), "--json").output)
    assert shown["damaged"] == {"default": "it was cut: 2 entries are left of 3"}


def test_without_the_sites_key_nothing_says_who_wrote_the_ledger(site):
    LedgerFiles(site, "default").key.unlink()
    found = run("ledger", "verify", str(site))
    assert found.exit_code == 1
    assert "key.pem is missing: its anchor cannot be verified" in found.output


def test_export_of_a_dataset_that_is_not_there_names_those_that_are(site):
    found = run("ledger", "export", str(site), "--dataset", "tickets")
    assert isinstance(found.exception, SettingsError)
    assert str(found.exception) == "choose one of this site's datasets with --dataset: default."


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--epsilon=-1", "privacy.epsilon must be greater than 0, got -1.0"),
        ("--rounds=0", "0 is not in the range x>=1"),
        ("--steps=0", "0 is not in the range x>=1"),
        ("--examples=0", "0 is not in the range x>=1"),
        ("--clip=-1", "privacy.clip must be"),
        ("--lr=nan", "train.lr must be a finite number"),
        ("--delta=0", "privacy.delta must be greater than 0"),
    ],
)
def test_a_plan_of_nothing_is_refused_by_name(option, said):
    result = run("privacy", "plan", "--examples=400", option)
    assert result.exit_code != 0
    assert said in str(result.exception) + result.output


def test_a_small_epsilon_is_found_by_the_exact_bound():
    result = run("privacy", "plan", "--examples=2400", "--epsilon=0.01", "--json")
    (client,) = json.loads(result.output)["clients"]
    assert 0.0097 < client["epsilon_by_round"][-1][1] <= 0.01


def test_an_epsilon_without_a_bound_is_shown_as_one(site):
    """Of a ledger that states as much δ as is asked for: nothing of it is left for the rest."""
    stated = ("--epsilon", "1", "--delta", "1e-5", "--reason", "lost", "--yes")
    assert run("ledger", "carry", str(site), "--dataset", "default", *stated).exit_code == 0
    shown = run("ledger", "show", str(site), "--delta", "1e-5")
    assert shown.exit_code == 0, shown.exception
    assert "∞" in shown.output
