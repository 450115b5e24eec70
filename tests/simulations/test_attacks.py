"""Whole runs with clients that lie: the attack is what it says, the defence is recorded, a deployment refuses both."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from fedlora.settings import SettingsError
from server.record.records import RoundFinished
from server.replies.quorum import QuorumError
from server.runs.submissions import submit
from simulations.attacks import Attackers, falsified, reversed_classes
from simulations.local_grid import Fault
from simulations.run import prepare
from simulations.terminal.screen import line
from tests.federations import run
from tests.strategies.examples import random_adapter
from tests.token_examples import CLASSIFICATION, labels_n

SIX = ("data.partition=iid", "data.clients=6", "rounds.count=2", "rounds.grace_s=20")


def rounds_of(folder):
    return [json.loads(text) for text in (folder / "rounds.jsonl").read_text().splitlines()]


def codes(line_):
    return {client["client"]: client["code"] for client in line_["clients"] if client["outcome"] != "trained"}


def test_reversed_classes_keep_the_middle_one(recipe):
    examples = next(iter(prepare(recipe()).data.clients.values())).train
    assert torch.equal(labels_n(reversed_classes(examples, 2)), 1 - labels_n(examples))


def hostile(kind: str, **values: float) -> Attackers:
    settings = SimpleNamespace(kind=kind, scale=values.get("scale", 10.0))
    return Attackers(settings, frozenset({"c0"}), 7, random_adapter(0))  # type: ignore[arg-type]  # two fields are read


def test_lies_by_hand():
    delta, received = {"x.B": torch.tensor([1.0, -2.0])}, random_adapter(0)
    assert falsified(delta, received, hostile("sign-flip"), 1)["x.B"].tolist() == [-1.0, 2.0]
    assert falsified(delta, received, hostile("scaled"), 1)["x.B"].tolist() == [10.0, -20.0]
    assert falsified(delta, received, hostile("label-flip"), 1) is delta
    together = hostile("colluding")
    assert falsified(delta, received, together, 1) is delta
    assert falsified({"x.B": torch.zeros(2)}, received, together, 1) is delta
    assert falsified({"x.B": torch.zeros(2)}, received, together, 2)["x.B"].tolist() == [0.0, 0.0]


def test_another_gauge_is_the_same_product():
    received = random_adapter(0, dtype=torch.float32)
    delta = {name: tensor * 0.1 for name, tensor in random_adapter(1, dtype=torch.float32).tensors().items()}
    lie = falsified(delta, received, hostile("regauge", scale=100.0), 1)
    honest, lied = (
        received.with_tensors({name: tensor + found[name] for name, tensor in received.tensors().items()})
        for found in (delta, lie)
    )
    for name, layer in honest.layers.items():
        torch.testing.assert_close(lied.layers[name].dense(), layer.dense(), atol=1e-3, rtol=1e-4)
    assert lied.layers["tall"].B_mr.norm() > 50 * honest.layers["tall"].B_mr.norm()
    torch.testing.assert_close(lied.dense["head/bias"], honest.dense["head/bias"])


@pytest.mark.parametrize("rule", ["screen", "multi-krum"])
def test_a_scaled_update_is_left_out_and_recorded(recipe, tmp_path, rule):
    attacked = recipe(*SIX, "attack.kind=scaled", f"robust.rule={rule}")
    seen = []
    summary = run(attacked, tmp_path / "run", watch=seen.append)
    (attacker,) = summary["attackers"]
    for found in rounds_of(tmp_path / "run"):
        assert codes(found)[attacker] == "screened-out"
        norms = {client["client"]: client["change_norm"] for client in found["clients"]}
        assert max(norms, key=lambda name: norms[name]) == attacker
        assert found["aggregation_error"] < 1e-5  # of what was let in
    shown = [line(event.record, CLASSIFICATION.compare_by) for event in seen if isinstance(event, RoundFinished)]
    assert all(f"{attacker} failed: screened-out" in text for text in shown)


def test_a_claim_of_millions_of_examples_owns_a_mean_by_examples_and_nothing_of_a_robust_one(recipe, tmp_path):
    claims = ("attack.kind=overclaim", "strategy.name=fedit")
    owned = run(recipe(*SIX, *claims), tmp_path / "owned")
    bounded = run(recipe(*SIX, *claims, "robust.norm_bound=1000"), tmp_path / "bounded")
    uniform = run(recipe(*SIX, "attack.kind=label-flip", "strategy.name=fedit", "strategy.weighting=uniform"),
                  tmp_path / "uniform")  # fmt: skip
    assert bounded["loss"] == uniform["loss"]
    assert owned["loss"] != pytest.approx(bounded["loss"])
    capped = run(recipe(*SIX, *claims, "rounds.max_weight=1"), tmp_path / "capped")
    assert capped["loss"] == uniform["loss"]


def test_examples_up_to_max_weight_weigh_what_they_did(recipe, tmp_path):
    def loss(*overrides):
        return run(recipe(*SIX, "strategy.name=fedit", "rounds.count=1", *overrides), tmp_path / str(overrides))["loss"]

    whole = loss()
    (found,) = rounds_of(tmp_path / "()")
    sizes = {client["examples"] for client in found["clients"]}
    assert min(sizes) < max(sizes)
    assert loss(f"rounds.max_weight={max(sizes)}") == whole
    assert loss(f"rounds.max_weight={min(sizes)}") == loss("strategy.weighting=uniform") != whole


def test_a_gauge_that_norms_of_products_do_not_see_is_left_out_by_its_factors(recipe, tmp_path):
    gauge = ("attack.kind=regauge", "attack.scale=300", "strategy.name=fedit")
    undefended = run(recipe(*SIX, *gauge), tmp_path / "undefended")
    defended = run(recipe(*SIX, *gauge, "robust.rule=screen"), tmp_path / "defended")
    (attacker,) = defended["attackers"]
    assert all(codes(found) == {attacker: "outlying-factors"} for found in rounds_of(tmp_path / "defended"))
    assert undefended["loss"] > defended["loss"]


def test_a_coordinate_rule_reports_no_aggregation_error(recipe, tmp_path):
    run(recipe(*SIX, "robust.rule=median"), tmp_path / "run")
    assert [found["aggregation_error"] for found in rounds_of(tmp_path / "run")] == [None, None]


def test_a_round_with_too_few_answers_for_f_stops_the_run_and_can_be_resumed(recipe, tmp_path):
    asked = recipe(*SIX, "robust.rule=multi-krum")

    def two_missing(node, message):
        number = json.loads(str(message.content.config_records["task"]["json"]))["round"]
        return Fault("error") if number == 2 and node in (1000, 1001) else None

    with pytest.raises(QuorumError, match=r"round 2: 4 of 6 .*2 failed \(client-error\).* 5 updates, 4 arrived.*--res"):
        run(asked, tmp_path / "run", faults=two_missing)
    assert len(rounds_of(tmp_path / "run")) == 1
    resumed = run(asked, tmp_path / "run", resume=True)
    assert resumed["loss"] == run(asked, tmp_path / "whole")["loss"]


def test_more_attackers_than_clients_are_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"attack.clients=6 needs more clients than attackers"):
        run(recipe(*SIX, "attack.kind=scaled", "attack.clients=6"), tmp_path / "run")


def test_a_gauge_attack_without_both_factors_is_refused(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"fedsvd does not train both"):
        run(recipe(*SIX, "attack.kind=regauge"), tmp_path / "run")


def test_a_deployment_refuses_to_attack(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"attack is for `fedlora simulate` only"):
        submit(SimpleNamespace(runs=tmp_path), recipe("attack.kind=scaled"), name="run")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_no_task_can_carry_an_attack():
    from fedlora.protocol.task import Task

    assert not {"attack", "robust"} & set(Task.model_fields)
