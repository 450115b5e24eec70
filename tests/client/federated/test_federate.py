"""`federate(trainer)`: two lines, the right arithmetic, sparse bytes, and no half-true privacy."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from peft import PeftModel, get_peft_model_state_dict
from torch import nn

import fedlora.flower
from client.federated.refusals import not_private, require_allowed
from fedlora.federated import federate
from fedlora.own_apps import live
from fedlora.own_apps.receive import receive
from fedlora.own_apps.records import Order, named_tensors
from fedlora.privacy.policy import Policy
from fedlora.privacy.refusal import Refusal
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from tests.own_apps import app_by_client, base_model, initial_arrays, peft_model, run_strategy, trainer_of

OPEN = Policy(require_privacy=False)


def federation(folder: Path, *, clients: int = 2, **settings: object) -> list:
    return [federate(trainer_of(number, folder), **settings) for number in range(clients)]


def run(strategy: object, members: list, **start: object) -> object:
    return run_strategy(strategy, app_by_client([member.app for member in members]), nodes=len(members), **start)


def test_two_lines_make_a_trainer_a_client_of_flowers_own_averaging(tmp_path):
    """The mean of what two trainers alone come to, from the same arrays."""
    result = run(FedAvg(fraction_evaluate=0.0), federation(tmp_path), num_rounds=1)
    alone = []
    for number in (0, 1):
        trainer = trainer_of(number, tmp_path)
        receive(trainer.model, initial_arrays())
        trainer.train()
        alone.append(get_peft_model_state_dict(trainer.model))
    for key, array in result.arrays.to_torch_state_dict().items():
        assert torch.allclose(array, (alone[0][key] + alone[1][key]) / 2, atol=1e-6), key


def test_only_what_the_strategy_trains_has_changed_and_travels(tmp_path):
    members = federation(tmp_path)
    result = run(fedlora.flower.FFALoRA(fraction_evaluate=0.0), members, num_rounds=1)
    before = initial_arrays().to_torch_state_dict()
    after = result.arrays.to_torch_state_dict()
    assert all(torch.equal(after[key], before[key]) == ("lora_A" in key) for key in before)
    up, down = (result.train_metrics_clientapp[1][key] for key in ("bytes-up", "bytes-down"))
    assert up < 0.6 * down


def test_sparse_bytes_come_to_the_same_place_by_what_is_carried_over(tmp_path):
    """An eighth of the values, eight bits each; what is left out is added in the next round."""
    wire = {"codec": "int8", "density": 0.125}
    sizes = {}
    for name, how in (("plain", None), ("packed", wire)):
        strategy = fedlora.flower.FedIT(fraction_evaluate=0.0, min_train_nodes=2, wire=how)
        result = run(strategy, federation(tmp_path), num_rounds=2)
        sizes[name] = result.train_metrics_clientapp[2]["bytes-up"]
        kept = initial_arrays().to_torch_state_dict()
        changed = sum(float((t - kept[k]).norm()) for k, t in result.arrays.to_torch_state_dict().items())
        assert changed > 0.01
    assert sizes["packed"] < sizes["plain"] / 5


def test_a_loop_of_ones_own_does_what_the_app_alone_does(tmp_path):
    """`while client.is_running()`: the two verbs that NVFlare's users have."""
    results = []
    for loops in (False, True):
        member = federate(trainer_of(0, tmp_path))
        seen = []

        def loop(member=member, seen=seen) -> None:
            while member.is_running(timeout_s=60):
                member._trainer.evaluate()
                member._trainer.train()
                seen.append(1)

        thread = threading.Thread(target=loop)
        if loops:
            thread.start()
            member._turns._taken.wait(10)
        results.append(run(FedIT1(), [member], num_rounds=2))
        if loops:
            thread.join(30)
            assert not thread.is_alive()
            assert len(seen) == 2
    first, second = (r.arrays.to_torch_state_dict() for r in results)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_core_in_a_users_own_model_is_averaged_exactly(tmp_path):
    """Fed-SB: r² numbers a matrix travel up, and what is saved is plain LoRA for the original base."""
    models = [peft_model() for _ in range(3)]
    arrays = ArrayRecord(fedlora.flower.add_core(models[2]))
    for model in models[:2]:
        fedlora.flower.add_core(model, seed=7)  # replaced by what is received
    members = [federate(trainer_of(number, tmp_path, models[number])) for number in (0, 1)]
    result = run(fedlora.flower.FedSB(fraction_evaluate=0.0), members, num_rounds=1, initial_arrays=arrays)
    before, after = arrays.to_torch_state_dict(), result.arrays.to_torch_state_dict()
    assert all(torch.equal(after[key], before[key]) != ("lora_R" in key) for key in before)
    assert result.train_metrics_clientapp[1]["aggregation-error"] < 1e-6
    folder = fedlora.flower.save(models[2], result.arrays, tmp_path / "saved")
    receive(models[2], result.arrays)
    ids = torch.tensor([[1, 2, 3, 4]])
    loaded = PeftModel.from_pretrained(base_model(), folder)
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(ids).logits, models[2].eval()(ids).logits, atol=1e-5)


def FedIT1() -> object:
    return fedlora.flower.FedIT(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)


def test_close_ends_a_loop_that_waits(tmp_path):
    member = federate(trainer_of(0, tmp_path))
    member.close()
    assert not member.is_running()
    with pytest.raises(TimeoutError, match=r"no round has begun within 0\.01 s"):
        member.is_running(timeout_s=0.01)


def batches(trainer: object) -> list:
    """The first tokens of what its next training reads."""
    seen = []
    step = trainer.training_step

    def watched(model, inputs, *more, **named):
        seen.append(inputs["input_ids"][:, 0].tolist())
        return step(model, inputs, *more, **named)

    trainer.training_step = watched
    return seen


def test_every_round_reads_rows_of_its_own(tmp_path):
    """A Trainer alone begins with the same seed each time: the same rows in the same order, in every round."""
    alone = trainer_of(0, tmp_path)
    seen = batches(alone)
    alone.train()
    alone.train()
    assert seen[:3] == seen[3:], "what is mended here"
    member = federate(trainer_of(0, tmp_path))
    seen = batches(member._trainer)
    run(FedIT1(), [member])
    assert seen[:3] != seen[3:]


@pytest.mark.parametrize(("between", "again"), [("reset", True), ("keep", False)])
def test_optimiser_and_schedule_go_on_or_begin_again_as_was_said(tmp_path, between, again):
    trainer = trainer_of(0, tmp_path, lr_scheduler_type="linear")
    member = federate(trainer, between_rounds=between)
    rates, ages = [], []
    step = trainer.training_step

    def watched(*given, **named):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        states = trainer.optimizer.state.values()
        ages.append(max((int(state["step"]) for state in states), default=0))
        return step(*given, **named)

    trainer.training_step = watched
    run(FedIT1(), [member])
    assert (ages == [0, 1, 2, 0, 1, 2]) is again
    assert again or ages == [0, 1, 2, 3, 4, 5]
    whole = [0.02 * (1 - n / 6) for n in range(6)]
    expected = [0.02 * (1 - n / 3) for n in range(3)] * 2 if again else whole
    assert rates == pytest.approx(expected)


def test_moments_of_other_parameters_are_not_kept(tmp_path):
    """RoLoRA trains B, then A: an optimiser that was made for B would train nothing in the second round."""
    member = federate(trainer_of(0, tmp_path), between_rounds="keep")
    strategy = fedlora.flower.RoLoRA(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    result = run(strategy, [member])
    before, after = initial_arrays().to_torch_state_dict(), result.arrays.to_torch_state_dict()
    assert not any(torch.equal(after[key], before[key]) for key in before)


def test_a_site_that_keeps_its_own_has_it_in_the_next_round(tmp_path):
    members = federation(tmp_path)
    strategy = fedlora.flower.FedSALoRA(fraction_evaluate=1.0)
    result = run(strategy, members)
    own = [live.read(member._trainer.model).tensors([Factor.B]) for member in members]
    assert any(not torch.equal(own[0][name], own[1][name]) for name in own[0])
    losses = [result.evaluate_metrics_clientapp[number]["eval_loss"] for number in (1, 2)]
    assert losses[1] < losses[0]


def test_a_policy_that_trains_with_privacy_only_refuses_the_trainer(tmp_path):
    (tmp_path / "policy.yaml").write_text("epsilon_budget: 3.0\n")
    with pytest.raises(Refusal, match=r"require_privacy is true.*one mean over the whole batch.*causal-lm"):
        federate(trainer_of(0, tmp_path), policy=tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (Policy(require_privacy=False, strategies=("ffa",)), "strategy-not-allowed"),
        (Policy(require_privacy=False, coordinators=("hospital-net",)), "coordinator-not-allowed"),
    ],
)
def test_an_order_that_the_policy_does_not_allow_is_answered_with_its_code(tmp_path, policy, code):
    members = federation(tmp_path, clients=1, policy=policy)
    with pytest.raises(RuntimeError, match=code):
        run(FedIT1(), members, num_rounds=1)


def test_a_name_that_is_allowed_may_ask_for_no_more_than_it_stands_for(tmp_path):

    order = Order(run="0" * 32, strategy="ffa", round=1, trains=(Factor.A, Factor.B))
    with pytest.raises(Refusal, match="trains A, B, which ffa does not"):
        require_allowed(Policy(require_privacy=False, strategies=("ffa",)), order)


def test_an_allowed_strategy_trains(tmp_path):
    policy = Policy(require_privacy=False, strategies=("fedit",))
    assert run(FedIT1(), federation(tmp_path, clients=1, policy=policy), num_rounds=1).train_metrics_clientapp


def test_privacy_is_refused_with_the_reason_and_the_way_out(tmp_path):
    trainer = trainer_of(0, tmp_path)
    with pytest.raises(SettingsError, match=r"cannot train with differential privacy.*Poisson.*privacy\.epsilon"):
        federate(trainer, privacy={"epsilon": 3})
    trainer.args.packing = True
    assert "packing puts several examples into one row" in not_private(trainer)


def test_what_an_error_says_stays_at_the_site(tmp_path):
    """Flower sends str(exception) to the server: it may hold a row."""
    trainer = trainer_of(0, tmp_path)
    trainer.train = lambda: (_ for _ in ()).throw(ValueError("patient Smith"))
    with pytest.raises(RuntimeError, match="internal-error") as raised:
        run(FedIT1(), [federate(trainer)], num_rounds=1)
    assert "Smith" not in str(raised.value)


def test_a_model_without_lora_is_refused(tmp_path):
    trainer = trainer_of(0, tmp_path)
    trainer.model = base_model()
    with pytest.raises(SettingsError, match="is no PeftModel"):
        federate(trainer)
    trainer.model = peft_model(use_dora=True)
    with pytest.raises(SettingsError, match="no plain LoRA of a matrix"):
        federate(trainer)
    with pytest.raises(SettingsError, match="is no PeftModel"):
        live.inner(nn.Linear(1, 1))


def test_a_head_of_the_users_own_travels_with_the_adapter(tmp_path):
    """modules_to_save, by PEFT's names."""
    model = peft_model(modules_to_save=["lm_head"])
    arrays = ArrayRecord(get_peft_model_state_dict(model))
    assert "base_model.model.lm_head.weight" in arrays
    found = live.read(model)
    assert set(found.dense) == {"lm_head/weight"}
    changed = {key: tensor + 1 for key, tensor in named_tensors(arrays).items()}
    receive(model, ArrayRecord(changed))
    assert torch.allclose(live.read(model).dense["lm_head/weight"], found.dense["lm_head/weight"] + 1)
    order = Order(run="0" * 32, strategy="ffa", round=1, trains=(Factor.B,))
    config = ConfigRecord({"fedlora": order.model_dump_json()})
    message = type("M", (), {"content": RecordDict({"arrays": arrays, "config": config})})()
    receive(model, message)
    assert {n.split(".")[-3] for n, p in model.named_parameters() if p.requires_grad} == {"lora_B"}
