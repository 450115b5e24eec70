"""`--together`: a run whose clients train in one pass is the run whose clients train one by one."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from client.together import trainer as trainer_module
from fedlora.cli import app
from fedlora.config import ComputeSettings
from fedlora.privacy.ledger import LedgerFiles, inspect_ledger
from simulations.local_grid import Fault
from simulations.run import prepare, simulate
from tests.federations import CLIENTS, NODES, PRIVATE

TOGETHER = ComputeSettings(together=True)


def federation(recipe, folder, compute=TOGETHER, **how):
    return simulate(prepare(recipe, compute=compute), folder, watch=lambda event: None, **how)


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def charges(folder, name):
    entries = inspect_ledger(LedgerFiles(folder / "sites" / name, "default")).entries
    return [(entry.kind, entry.fields.get("rate"), entry.fields.get("noise_multiplier")) for entry in entries]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("strategy.name=fedit", "rounds.count=2"), id="plain"),
        pytest.param((*PRIVATE, "privacy.insecure_seed=3", "rounds.count=1"), id="private", marks=pytest.mark.slow),
    ],
)
def test_adapters_and_ledgers_are_those_of_one_by_one(recipe, tmp_path, overrides, monkeypatch):
    asked = recipe(*overrides)
    federation(asked, tmp_path / "alone", ComputeSettings())
    monkeypatch.setattr(trainer_module, "OneByOne", None)
    federation(asked, tmp_path / "together")
    alone, together = adapter(tmp_path / "alone"), adapter(tmp_path / "together")
    assert all((together[name] - tensor).abs().max() < 1e-5 for name, tensor in alone.items())
    for name in CLIENTS:
        assert charges(tmp_path / "together", name) == charges(tmp_path / "alone", name)


def test_a_client_that_fails_or_is_damaged_costs_its_own_update_alone(recipe, tmp_path, monkeypatch):
    kinds = {"blue": Fault("error"), "green": Fault("duplicate")}
    trained = []

    def counted(self, works):
        trained.append(len(works))
        return group(self, works)

    group = trainer_module.Together._group
    monkeypatch.setattr(trainer_module.Together, "_group", counted)
    federation(
        recipe("rounds.count=1", "rounds.quorum=0.5"),
        tmp_path / "run",
        faults=lambda node, message: next((kinds[name] for name in kinds if NODES[name] == node), None),
    )
    (record,) = map(json.loads, (tmp_path / "run" / "rounds.jsonl").read_text().splitlines())
    assert trained == [3]
    assert {client["client"] for client in record["clients"] if client["outcome"] == "trained"} == {
        "green", "red", "white"
    }  # fmt: skip


def test_attackers_are_trained_one_by_one(recipe, tmp_path, monkeypatch, caplog):
    asked = recipe("rounds.count=1", "attack.kind=sign-flip", "attack.clients=1", "robust.rule=median")
    monkeypatch.setattr(trainer_module, "train_group", None)
    federation(asked, tmp_path / "run")
    assert "clients are trained one by one: there are attackers among them." in caplog.text


def test_clients_in_many_processes_cannot_be_together(monkeypatch):
    monkeypatch.setattr("simulations.commands.simulate.run_on_screen", None)
    done = CliRunner().invoke(app, ["simulate", "fedit", "--together", "--engine", "ray"])
    assert done.exit_code != 0
    assert "--together trains the clients of one process" in str(done.output) + str(done.exception)
