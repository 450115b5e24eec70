"""What each device is given to carry, and whole runs on unequal devices."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from fedlora.config import AdapterSettings, DeviceSettings
from fedlora.settings import SettingsError
from fedlora.wire.message import encode
from server.requests.planner import Shape, memory_mb, numbers, ranks_of, spread, step_share, transfer_s
from strategies.registry import build, named
from tests.federations import run

LAYERS = 4
SHAPE = Shape(tuple(((f"{i}.query", 8, 8), (f"{i}.value", 8, 8)) for i in range(LAYERS)), activation_bytes=1e6, batch=1)
ADAPTER = AdapterSettings(r=8)


def plan(**device: object) -> dict[str, int]:
    return dict(ranks_of(DeviceSettings.model_validate(device), SHAPE, ADAPTER, key="devices.small"))


def by_layer(ranks: dict[str, int]) -> list[int]:
    return [ranks[f"{i}.query"] for i in range(LAYERS)]


def test_without_a_budget_a_device_carries_everything():
    assert by_layer(plan()) == [8, 8, 8, 8]


def test_depth_counts_from_the_output():
    assert by_layer(plan(depth=2, r=3)) == [0, 0, 3, 3]


def test_ranks_rise_towards_the_output():
    assert by_layer(plan(distribution="rising")) == [2, 4, 6, 8]
    assert by_layer(plan(distribution="rising", depth=2)) == [0, 0, 4, 8]


def test_the_largest_depth_that_fits_the_memory_is_taken():
    for depth in range(1, LAYERS + 1):
        least = memory_mb(SHAPE, spread(SHAPE, depth, 1, "uniform"), depth)
        ranks = by_layer(plan(memory_mb=least))
        assert sum(rank > 0 for rank in ranks) == depth


def test_a_device_that_computes_fewer_examples_at_once_carries_more_layers_in_the_same_memory():
    shape = replace(SHAPE, batch=8)
    one = memory_mb(shape, spread(shape, 1, 1, "uniform"), 1)
    for microbatch, depth in ((None, 1), (8, 1), (100, 1), (2, 3)):
        device = DeviceSettings(memory_mb=one, microbatch=microbatch)
        ranks = by_layer(dict(ranks_of(device, shape, ADAPTER, key="devices.small")))
        assert sum(rank > 0 for rank in ranks) == depth


def test_the_largest_depth_that_fits_the_time_of_a_step_is_taken():
    # forward 1/2, backward 1/2 through all four layers: three layers take 7/8 of a step
    assert step_share(3, LAYERS) == 0.875
    assert by_layer(plan(step_s=2.0, target_step_s=1.75)) == [0, 8, 8, 8]


def test_the_largest_rank_that_fits_the_link_is_taken():
    wanted = spread(SHAPE, LAYERS, 5, "uniform")
    assert by_layer(plan(megabits_s=1.0, transfer_s=transfer_s(SHAPE, wanted, 1.0))) == [5, 5, 5, 5]
    assert numbers(SHAPE, wanted) == 4 * 2 * 5 * 16


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ({"memory_mb": 0.001}, "devices.small: not even the last layer fits"),
        ({"step_s": 1.0, "target_step_s": 0.1}, "not even the last layer fits"),
        ({"megabits_s": 1e-9}, "rank 1 take"),
    ],
)
def test_a_device_that_cannot_carry_one_layer_is_refused_with_the_way_out(device, says):
    with pytest.raises(SettingsError, match=says):
        plan(**device)


@pytest.mark.parametrize("strategy", named(unequal_ranks=True))
def test_unequal_devices_train_together_and_send_what_they_carry(recipe, tmp_path, monkeypatch, strategy):
    sent: dict[str, int] = {}

    def measured(delta, header, **options):
        blob = encode(delta, header, **options)
        sent[header.client] = len(blob)
        return blob

    monkeypatch.setattr("client.round.encode", measured)
    settings = recipe(
        f"strategy.name={strategy}", "adapter.r=4", "devices.blue={r: 1}", "devices.red={depth: 1}", "devices.others={}"
    )
    summary = run(settings, tmp_path / "run")
    assert sent["blue"] < sent["red"] < sent["green"] == sent["white"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    losses = [line["evaluation"]["loss"] for line in lines]
    assert losses == sorted(losses, reverse=True), "every round is better than the one before"
    assert losses[-1] < math.log(2), "than a coin"
    if build(strategy, {}).traits.exact:
        assert summary["aggregation_error_max"] < 1e-6


def test_unequal_devices_resume_to_the_same_bits(recipe, tmp_path):
    settings = recipe("strategy.name=flora", "devices.blue={r: 1}")
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run(settings, whole)
    run(settings.model_copy(update={"rounds": settings.rounds.model_copy(update={"count": 1})}), halves)
    config = halves / "config.yaml"
    config.write_text((whole / "config.yaml").read_text())
    run(settings, halves, resume=True)
    assert (whole / "adapter/adapter_model.safetensors").read_bytes() == (
        halves / "adapter/adapter_model.safetensors"
    ).read_bytes()


def test_a_small_device_trains_under_privacy(recipe, tmp_path):
    settings = recipe("strategy.name=flexlora", "devices.blue={depth: 1, r: 1}", "privacy.epsilon=8")
    assert run(settings, tmp_path / "run")["rounds"] == 3


def test_a_strategy_that_averages_factors_of_one_shape_refuses_unequal_devices(recipe, tmp_path):
    with pytest.raises(SettingsError, match=r"cannot serve unequal devices.*flexlora"):
        run(recipe("devices.blue={r: 1}"), tmp_path / "run")
