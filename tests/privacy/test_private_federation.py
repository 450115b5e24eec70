"""A whole private run: both sides in one process, the summary, refusals, resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import simulations.run as run_module
from client.round import answer
from fedlora.privacy.accounting import Event, epsilon
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.policy import DatasetPolicy, Policy
from server.replies.quorum import QuorumError
from strategies.registry import STRATEGIES, build
from tests.federations import CLIENTS, run, save_messages, save_tiny_model, tiny_recipe
from tests.strategies.examples import kind_of


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, *overrides)


def charges(out: Path, client: str) -> list[dict]:
    entries = read_ledger(LedgerFiles(out / "sites" / client, "default"), public_key=None).entries
    return [dict(entry.fields) for entry in entries if entry.kind == "charge"]


def clients_of(out: Path) -> list[dict]:
    lines = (out / "rounds.jsonl").read_text().splitlines()
    return [client for line in lines for client in json.loads(line)["clients"]]


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_runs_privately_and_the_summary_says_what_was_spent(recipe, tmp_path, strategy):
    kind = kind_of(build(strategy, {}))
    metrics = bool(build(strategy, {}).traits.keeps)  # without a global model the clients' own metrics are all there is
    settings = ("privacy.epsilon=3", f"strategy.name={strategy}", "rounds.count=2", f"adapter.kind={kind}")
    summary = run(recipe(*settings, f"privacy.report_metrics={str(metrics).lower()}"), tmp_path)
    assert 2.9 < summary["epsilon_max"] <= 3.0
    assert set(summary["epsilon_by_client"]) == set(CLIENTS)
    assert summary["delta"] == 1e-5
    assert summary["adjacency"] == "add-or-remove-one"
    assert summary["privacy_unit"] == "example"
    assert summary["insecure_noise"] is False
    assert any("public size" in leak for leak in summary["leaks"])
    for client in clients_of(tmp_path):
        assert (client["received"] is not None) == metrics
        assert (client["train_loss"] is not None) == metrics
    for name in CLIENTS:
        spent = [
            Event(rate=c["rate"], noise_multiplier=c["noise_multiplier"], steps=c["steps"])
            for c in charges(tmp_path, name)
        ]
        assert epsilon(spent, delta=1e-5) == summary["epsilon_by_client"][name]


def test_without_privacy_the_summary_has_no_epsilon(recipe, tmp_path):
    summary = run(recipe("rounds.count=1"), tmp_path)
    assert not any("epsilon" in key for key in summary)
    assert not (tmp_path / "sites" / CLIENTS[0] / "privacy" / "default").exists()


def test_equal_seeds_do_not_repeat_secure_noise_and_insecure_seeds_do(recipe, tmp_path):
    def adapter(name: str, *overrides: str) -> bytes:
        run(recipe("privacy.noise_multiplier=1", "rounds.count=1", *overrides), tmp_path / name)
        return (tmp_path / name / "adapter/adapter_model.safetensors").read_bytes()

    assert adapter("a") != adapter("b")
    seeded = "privacy.insecure_seed=4"
    assert adapter("c", seeded) == adapter("d", seeded)
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert summary["insecure_noise"] is True
    assert any("insecure_seed" in leak for leak in summary["leaks"])
    assert {c["secure"] for c in charges(tmp_path / "c", CLIENTS[0])} == {False}


def with_policy(monkeypatch, policies: dict[str, Policy]) -> None:
    real = run_module.site_of

    def site_of(data, name, folder, compute):
        site = real(data, name, folder, compute)
        if name not in policies:
            return site
        return replace(site, policy=policies[name].model_copy(update={"base_models": "any"}))

    monkeypatch.setattr(run_module, "site_of", site_of)


def test_one_sites_refusal_costs_its_own_update_and_its_code_is_stored(recipe, tmp_path, monkeypatch):
    with_policy(monkeypatch, {"green": Policy(strategies=("ffa",))})
    run(recipe("privacy.epsilon=3", "rounds.count=1"), tmp_path)
    outcomes = {client["client"]: (client["outcome"], client["code"]) for client in clients_of(tmp_path)}
    assert outcomes.pop("green") == ("refused", "strategy-not-allowed")
    assert set(outcomes.values()) == {("trained", None)}


def test_each_client_has_its_own_budget_by_the_sensitivity_of_its_data(recipe, tmp_path, monkeypatch):
    sensitive = Policy(datasets={"default": DatasetPolicy(epsilon_per_period=0.5)})
    with_policy(monkeypatch, {"red": sensitive})
    summary = run(recipe("privacy.epsilon=3", "rounds.count=2"), tmp_path)
    assert summary["epsilon_by_client"]["red"] <= 0.5 < summary["epsilon_by_client"]["blue"]
    assert summary["epsilon_max"] > 2.9
    assert summary["noise_multiplier_by_client"]["red"] > summary["noise_multiplier_by_client"]["blue"]


def test_an_exhausted_budget_ends_the_run_with_the_reason(recipe, tmp_path, monkeypatch):
    tight = Policy(epsilon_budget=0.2)
    with_policy(monkeypatch, dict.fromkeys(CLIENTS, tight))
    with pytest.raises(QuorumError, match="budget-exhausted"):
        run(recipe("privacy.epsilon=3"), tmp_path)


def test_a_training_that_was_cut_off_costs_a_site_its_last_round_unless_a_spare_one_was_planned(
    recipe, tmp_path, monkeypatch
):
    import client.trainer

    def interrupted(*given):
        raise RuntimeError("killed after its charge")

    def run_with(*overrides: str, out: Path) -> dict:
        settings = recipe("privacy.epsilon=3", "rounds.count=2", *overrides)
        with monkeypatch.context() as patch:
            patch.setattr(client.trainer, "take_steps", interrupted)
            with pytest.raises(QuorumError, match="internal-error"):
                run(settings, out)
        return run(settings, out, resume=True)

    with pytest.raises(QuorumError, match=r"round 2.*participation-cap-reached"):
        run_with(out=tmp_path / "none")
    summary = run_with("privacy.spare_rounds=1", out=tmp_path / "one")
    assert [len(charges(tmp_path / "one", name)) for name in CLIENTS] == [3] * len(CLIENTS)
    assert 2.9 < summary["epsilon_max"] <= 3.0


def test_an_update_without_its_receipt_is_not_taken(recipe, tmp_path, monkeypatch):
    import client.app

    def forgetful(task, blob, site):
        report, update = answer(task, blob, site)
        return report.model_copy(update={"receipt": None} if site.name == "white" else {}), update

    monkeypatch.setattr(client.app, "answer", forgetful)
    run(recipe("privacy.epsilon=3", "rounds.count=1"), tmp_path)
    outcomes = {found["client"]: (found["outcome"], found["code"]) for found in clients_of(tmp_path)}
    assert outcomes["white"] == ("failed", "bad-receipt")
    assert outcomes["blue"] == ("trained", None)


def test_an_update_with_the_receipt_of_an_easier_task_is_not_taken(recipe, tmp_path, monkeypatch):
    """Signed, of this run and round, with a number that goes on: and for fewer steps than the site was sent."""
    import client.app

    def thrifty(task, blob, site):
        if site.name != "white":
            return answer(task, blob, site)
        return answer(task.model_copy(update={"train": task.train.model_copy(update={"steps": 1})}), blob, site)

    monkeypatch.setattr(client.app, "answer", thrifty)
    run(recipe("privacy.epsilon=3", "rounds.count=1"), tmp_path)
    outcomes = {found["client"]: (found["outcome"], found["code"]) for found in clients_of(tmp_path)}
    assert outcomes["white"] == ("failed", "bad-receipt")
    assert outcomes["blue"] == ("trained", None)


def test_a_ledger_that_is_put_back_with_anchor_and_answers_is_found_by_the_coordinator(recipe, tmp_path):
    """The site's own disk cannot show it: the receipts that the coordinator holds do."""
    home = tmp_path / "sites" / "red" / "privacy"
    copies: dict[Path, bytes] = {}

    def restore_after_each_round(event) -> None:
        if type(event).__name__ != "RoundFinished":
            return
        files = [home / "default" / "ledger.jsonl", home / "anchors" / "default.json"]
        if event.record.round == 1:
            copies.update({path: path.read_bytes() for path in files})
        for path, content in copies.items():
            path.write_bytes(content)
        for path in (home / "default" / "answers").glob("*"):
            path.unlink()

    run(recipe("privacy.epsilon=3"), tmp_path, watch=restore_after_each_round)
    rounds = [json.loads(line)["clients"] for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    outcomes = [{client["client"]: client["code"] for client in clients}["red"] for clients in rounds]
    assert outcomes == [None, None, "bad-receipt"]


def test_a_resumed_run_goes_on_in_the_same_ledger(recipe, tmp_path):
    class PullThePlugError(Exception):
        pass

    def stop_after_first(event) -> None:
        if type(event).__name__ == "RoundFinished" and event.record.round == 1:
            raise PullThePlugError

    settings = ("privacy.epsilon=3", "rounds.count=2")
    with pytest.raises(PullThePlugError):
        run(recipe(*settings), tmp_path, watch=stop_after_first)
    assert len(charges(tmp_path, "blue")) == 1
    summary = run(recipe(*settings), tmp_path, resume=True)
    assert [charge["round"] for charge in charges(tmp_path, "blue")] == [1, 2]
    assert 2.9 < summary["epsilon_max"] <= 3.0
