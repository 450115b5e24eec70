"""Strategies in a ServerApp of one's own: the registry's arithmetic on PEFT's arrays, and one bad answer for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from peft import get_peft_model_state_dict

import fedlora.flower
from fedlora.adapters.peft_names import adapter_of, by_peft_key
from fedlora.own_apps import live
from fedlora.own_apps.records import MOVED_STYPE, named_tensors, order_in, state_in
from fedlora.settings import RunError, SettingsError
from fedlora.updates import Factor, Update
from server.serverapp.strategy import OWN_APPS
from strategies.registry import STRATEGIES, build
from strategies.versions import total
from tests.own_apps import initial_arrays, peft_model, run_strategy

WITH_PEFT = sorted(name for name in STRATEGIES if Factor.R not in build(name, {}).trains(1))
SCALE = 1.5
COUNTS = (1, 4, 9)


@dataclass(frozen=True)
class Received:
    """A message as `receive` reads it."""

    content: RecordDict


def class_of(name: str) -> type:
    return getattr(fedlora.flower, STRATEGIES[name].__name__)


def made(name: str, **arguments: object) -> object:
    alpha = {"lora_alpha": 3.0} if build(name, {}).traits.moves_base else {}
    return class_of(name)(fraction_evaluate=0.0, min_train_nodes=2, **alpha, **arguments)


def moved(name: str, tensor: torch.Tensor, client: int, number: int) -> torch.Tensor:
    """What this client makes of a trained tensor in this round."""
    draw = torch.Generator().manual_seed(1000 * number + 100 * client + len(name))
    return tensor + 0.1 * torch.randn(tensor.shape, generator=draw)


def clients(answer: Callable[[int, dict[str, torch.Tensor], Message], RecordDict] | None = None) -> ClientApp:
    """Trains by `moved`, as `receive` loads and freezes it; `answer` makes another answer."""
    app = ClientApp()
    models = [peft_model() for _ in COUNTS]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        received = fedlora.flower.receive(models[client], message)
        assert received.order is not None
        own = received.adapter.tensors(received.order.trains)
        trained = {n: moved(n, t, client, received.order.round) for n, t in own.items()}
        kept = received.adapter.tensors(received.order.keeps)
        after = received.adapter.with_tensors({**trained, **kept})
        live.write(
            models[client], after, state_in(named_tensors(message.content["arrays"]), scale)[1] if not kept else {}
        )
        content = (answer or plain)(client, by_peft_key(trained), message)
        return Message(content, reply_to=message)

    return app


def scale(name: str, rank: int) -> float:
    return SCALE


def plain(client: int, arrays: dict[str, torch.Tensor], message: Message) -> RecordDict:
    metrics = MetricRecord({"num-examples": COUNTS[client], "train_loss": 1.0 + client})
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})


@pytest.mark.parametrize("name", WITH_PEFT)
def test_two_rounds_are_what_the_strategy_itself_computes(name):
    """One of those that draw other coordinates: the signs of an SVD hang on the order in which clients answer."""
    pure = build(name, {})
    strategy, rounds = made(name), 1 if pure.traits.redraws else 2
    result = run_strategy(strategy, clients(), num_rounds=rounds)
    state = pure.init(adapter_of(named_tensors(initial_arrays()), scale if pure.traits.moves_base else lambda *_: 1.0))
    for number in range(1, rounds + 1):
        own = state.adapter.tensors(pure.trains(number))
        trained = [{n: moved(n, t, client, number) for n, t in own.items()} for client in range(3)]
        updates = [Update(str(k), COUNTS[k], state.adapter.with_tensors(t)) for k, t in enumerate(trained)]
        state = pure.step(state, pure.combine(updates))
    served = strategy.state.adapter.layers
    assert all(torch.allclose(served[n].dense(), layer.dense(), atol=1e-5) for n, layer in state.adapter.layers.items())
    ours, theirs = total(strategy.state), total(state)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[n].dense(), theirs[n].dense(), atol=1e-5) for n in ours)
    last = result.train_metrics_clientapp[rounds]
    assert last["bytes-up"] > 0
    assert ("aggregation-error" not in last) or pure.traits.exact == (last["aggregation-error"] < 1e-5)


@pytest.mark.parametrize("name", WITH_PEFT)
def test_what_travels_has_peft_names_and_what_flower_refuses_where_a_base_moved(name):
    result = run_strategy(made(name), clients(), num_rounds=1)
    traits = build(name, {}).traits
    own = {key for key in result.arrays if not key.startswith("residual/")}
    kept = {"lora_B"} if traits.keeps else set()
    expected = {key for key in get_peft_model_state_dict(peft_model()) if not any(part in key for part in kept)}
    assert own == expected
    if traits.moves_base:
        assert {array.stype for array in result.arrays.values()} == {MOVED_STYPE}
        with pytest.raises(TypeError, match=r"fedlora\.flower\.receive"):
            result.arrays.to_torch_state_dict()


def bad(kind: str) -> Callable[[int, dict[str, torch.Tensor], Message], RecordDict]:
    """The third client answers so."""

    def answer(client: int, arrays: dict[str, torch.Tensor], message: Message) -> RecordDict:
        content = plain(client, arrays, message)
        if client != 2:
            return content
        first = next(iter(arrays))
        if kind == "raises":
            raise RuntimeError("broken")
        if kind == "nan":
            arrays = {**arrays, first: arrays[first] * float("nan")}
        if kind == "shape":
            arrays = {**arrays, first: arrays[first][:1]}
        if kind == "missing":
            arrays = {key: tensor for key, tensor in arrays.items() if key != first}
        if kind == "large":
            arrays = {**arrays, first: arrays[first] + 1e9}
        if kind == "another type":
            return RecordDict({**content, "arrays": ArrayRecord({first: Array("uint8", (1,), "other", b"1")})})
        if kind == "torn":
            whole = Array(arrays[first].numpy())
            torn = Array(whole.dtype, whole.shape, whole.stype, whole.data[:-8])
            return RecordDict({**content, "arrays": ArrayRecord({**ArrayRecord(arrays), first: torn})})
        counts = {"none": 0, "endless": 10**12}.get(kind, COUNTS[client])
        metrics = {"train_loss": 1.0} if kind == "no count" else {"num-examples": counts, "train_loss": 1.0}
        return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})

    return answer


KINDS = ["raises", "nan", "shape", "missing", "large", "another type", "torn", "none", "endless", "no count"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_answer_costs_its_own_update_and_nothing_else(kind):
    """Stock averaging stops with an error, becomes NaN, or belongs to whoever claims the most rows."""
    strategy = made("fedit")
    run_strategy(strategy, clients(bad(kind)), num_rounds=1)
    begun = adapter_of(named_tensors(initial_arrays()), scale).tensors()
    weights = {0: 1 / 5, 1: 4 / 5}
    for name, tensor in strategy.state.adapter.tensors().items():
        mean = sum(weights[k] * moved(name, begun[name], k, 1) for k in (0, 1))
        assert torch.allclose(tensor, mean, atol=1e-6)


def test_too_few_valid_answers_stop_the_run_and_change_nothing():
    strategy = made("fedit", quorum=1.0)
    with pytest.raises(RunError, match=r"(?s)round 1: 2 of 3 clients.*100% are needed.*is not finite"):
        run_strategy(strategy, clients(bad("nan")))
    begun = adapter_of(named_tensors(initial_arrays()), scale).tensors()
    assert all(torch.equal(t, begun[n]) for n, t in strategy.state.adapter.tensors().items())


def test_a_strategy_may_be_run_again_from_the_beginning():
    strategy = made("fedit")
    first = run_strategy(strategy, clients(), num_rounds=1)
    second = run_strategy(strategy, clients(), num_rounds=1)
    assert {k: a.data for k, a in first.arrays.items()} == {k: a.data for k, a in second.arrays.items()}


def test_an_order_says_what_trains_and_in_which_round():
    seen = []

    def noted(client: int, arrays: dict[str, torch.Tensor], message: Message) -> RecordDict:
        seen.append(order_in(message.content.config_records["config"]))
        return plain(client, arrays, message)

    run_strategy(made("rolora"), clients(noted))
    assert [(order.round, order.rounds, order.trains, order.used_round) for order in seen[::3]] == [
        (1, 2, ("B", "head"), 0), (2, 2, ("A", "head"), 1),
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(OWN_APPS))
def test_every_strategy_of_the_registry_has_its_class(name):
    assert getattr(fedlora.flower, name).__name__ == name
    assert "FedAvg" in fedlora.flower.__getattr__(name).__doc__


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: fedlora.flower.FedSVD(periodd=2), r"unknown argument periodd; did you mean period=\?"),
        (lambda: fedlora.flower.FLoRA(), r"give lora_alpha="),
        (lambda: fedlora.flower.FedSVD(server_optimizer={"name": "fedadam"}), "needs a strategy whose factors keep"),
        (lambda: fedlora.flower.FedSVD(wire={"codec": "int3"}), "wire.codec"),
        (lambda: fedlora.flower.FedSB().start(None, initial_arrays()), "averages a core R"),
        (lambda: fedlora.flower.FedIT().start(None, ArrayRecord([torch.zeros(2).numpy()])), "is no adapter's"),
        (lambda: fedlora.flower.FedSALoRA().start(None, initial_arrays(), evaluate_fn=print), "no global model"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(make, why):
    with pytest.raises(SettingsError, match=why):
        make()


def test_a_name_that_is_not_there_names_those_that_are():
    with pytest.raises(AttributeError, match="FedSVD"):
        _ = fedlora.flower.FedProx
    assert {"FedSVD", "receive", "save", "rounds"} <= set(dir(fedlora.flower))


def test_a_client_of_another_scale_refuses_what_was_added_to_the_base():
    """The residual would be of another size than what it completes."""
    config = ConfigRecord({"fedlora": made("fedex").order(1).model_dump_json()})
    message = Received(RecordDict({"arrays": initial_arrays(), "config": config}))
    with pytest.raises(SettingsError, match=r"scales B A by 2 here, and the coordinator's lora_alpha=3 means 1\.5"):
        fedlora.flower.receive(peft_model(lora_alpha=4), message)
