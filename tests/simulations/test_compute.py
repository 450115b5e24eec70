"""How this machine computes is in nothing that a simulation keeps or sends: a run goes on otherwise, and is known."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from fedlora.cli import load_command
from fedlora.config import ComputeSettings
from fedlora.data.examples import Examples
from fedlora.plain_yaml import yaml_text
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from server.record.checkpoint import CheckpointError
from server.record.records import ClientAnswered
from simulations.run import prepare, simulate
from tests.federations import CLIENTS, run

OTHER = ComputeSettings(device="cpu:0", microbatch=3)


class KilledError(Exception):
    """The coordinator is gone."""


def charges(folder, name: str) -> int:
    files = LedgerFiles(folder / "sites" / name, "default")
    return sum(entry.kind == "charge" for entry in inspect_ledger(files).entries)


def test_tasks_of_a_coordinator_that_died_are_known_on_another_device(recipe, tmp_path):
    """It dies when everybody has answered its second round and nothing of that is kept."""
    asked, answered = recipe("privacy.epsilon=3"), []

    def die(event) -> None:
        if isinstance(event, ClientAnswered) and event.round == 2:
            answered.append(event.record.client)
            if len(answered) == len(CLIENTS):
                raise KilledError

    with pytest.raises(KilledError):
        simulate(prepare(asked), tmp_path / "run", watch=die)
    assert {charges(tmp_path / "run", name) for name in CLIENTS} == {2}
    simulate(prepare(asked, compute=OTHER), tmp_path / "run", watch=lambda event: None, resume=True)
    assert {charges(tmp_path / "run", name) for name in CLIENTS} == {3}, "the second round was not paid for twice"


def test_a_run_on_another_device_keeps_the_same_recipe(recipe, tmp_path):
    simulate(prepare(recipe(), compute=OTHER), tmp_path / "run", watch=lambda event: None)
    kept = (tmp_path / "run/config.yaml").read_text()
    assert "cpu:0" not in kept
    assert yaml.safe_load(kept)["train"].keys() >= {"batch_size", "steps"}
    run(recipe("rounds.count=4"), tmp_path / "run", resume=True)


def test_a_former_device_in_the_recipe_of_a_run_stays_as_it_was_begun(recipe, tmp_path):
    """Its tasks are known by what they say: changed, a private round would be paid for twice."""
    begun = recipe("model.device=cpu:0", "rounds.count=1")
    run(begun, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"another recipe; model\.device differ"):
        run(recipe("rounds.count=2"), tmp_path / "run", resume=True)
    on = recipe("model.device=cpu:0", "rounds.count=2")
    simulate(prepare(on, compute=ComputeSettings(device="cpu")), tmp_path / "run", watch=lambda e: None, resume=True)


def test_the_command_s_options_are_used_and_a_former_setting_is_said(recipe, tmp_path, monkeypatch):
    seen: set[tuple[str, bool]] = set()
    real = Examples.batch

    def batch(self, indices, **options):
        seen.add((str(options.get("device")), len(indices) <= 2))
        return real(self, indices, **options)

    monkeypatch.setattr(Examples, "batch", batch)
    path = tmp_path / "recipe.yaml"
    values = recipe("rounds.count=1").model_dump(mode="json")
    path.write_text(yaml_text({**values, "train": {**values["train"], "microbatch_size": 7}}))
    given = ["simulate", str(path), "--out", str(tmp_path / "run"), "--device", "cpu:0", "--microbatch", "2", "--json"]
    said = CliRunner().invoke(load_command("simulate"), given[1:])
    assert said.exit_code == 0, said.output
    assert seen == {("cpu:0", True)}
    assert "note: train.microbatch_size=7" in said.stderr
    assert json.loads(said.stdout)["rounds"] == 1
