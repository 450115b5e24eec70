"""What a recipe says of local training, from the file to the result: with every strategy, stopped, and private."""

from __future__ import annotations

import json
import math

import pytest
import torch

from fedlora.protocol.versions import recorded
from fedlora.settings import SettingsError
from server.record import checkpoint
from simulations.commands.find_lr import small
from simulations.run import prepare
from strategies.registry import STRATEGIES, build
from tests.federations import run

EVERYTHING = (
    "rounds.count=3", "rounds.evaluate_every=3", "train.steps=2", "train.optimizer=adamw", "train.lr=0.02",
    "train.schedule=cosine", "train.warmup=1", "train.proximal_mu=0.5", "train.order=continue",
)  # fmt: skip


def state(recipe, folder):
    return checkpoint.read(folder / "checkpoint.safetensors", recipe=recorded(recipe)).state.adapter.tensors()


def lines(folder):
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_trains_with_everything_that_goes_with_it(recipe, tmp_path, name):
    kind = ("adapter.kind=lora_xs",) if name == "fedsb" else ()
    kept = ("train.optimizer_state=keep",) if build(name, {}).traits.fixed_coordinates else ()
    summary = run(recipe(f"strategy.name={name}", *EVERYTHING, *kind, *kept), tmp_path / "run")
    assert math.isfinite(summary["loss"])
    assert [line["lr"] for line in lines(tmp_path / "run")] == pytest.approx([0.01, 0.02, 0.002])
    sites = list((tmp_path / "run" / "sites").glob("*/moments/*.safetensors"))
    assert len(sites) == (4 if kept else 0)


def test_a_run_with_everything_that_is_stopped_goes_on_as_if_it_had_not_been(recipe, tmp_path):
    settings = ("strategy.name=rolora", *EVERYTHING, "train.optimizer_state=keep")
    whole = recipe(*settings)
    run(whole, tmp_path / "whole")
    run(recipe(*settings, "train.warmup=0", "train.schedule=constant"), tmp_path / "steady")
    steady = recipe(*settings, "train.warmup=0", "train.schedule=constant", "rounds.count=2")
    run(steady, tmp_path / "parts")
    again = recipe(*settings, "train.warmup=0", "train.schedule=constant")
    run(again, tmp_path / "parts", resume=True)
    expected, found = state(again, tmp_path / "steady"), state(again, tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any(not torch.equal(expected[name], tensor) for name, tensor in state(whole, tmp_path / "whole").items())


def test_two_rounds_of_one_client_that_go_on_are_one_round_of_twice_the_steps(recipe, tmp_path):
    """Rows and moments both go on; without either they are not."""
    alone = ("strategy.name=fedit", "mode=pooled", "train.optimizer=adamw", "train.lr=0.02", "train.batch_size=4")

    def after(name, *more):
        asked = recipe(*alone, *more)
        run(asked, tmp_path / name)
        return state(prepare(asked).recipe, tmp_path / name)

    once = after("once", "rounds.count=1", "train.steps=2", "train.order=continue")
    twice = ("rounds.count=2", "train.steps=1")
    found = after("twice", *twice, "train.order=continue", "train.optimizer_state=keep")
    for name, tensor in once.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)
    for other in (("train.order=continue",), ("train.optimizer_state=keep",)):
        apart = after(other[0], *twice, *other)
        assert max(float((apart[name] - once[name]).abs().max()) for name in once) > 1e-3, other


def test_epochs_train_on_all_rows_and_count_no_steps(recipe, tmp_path):
    settings = recipe("strategy.name=fedit", "train.steps=null", "train.local_epochs=2", "rounds.count=1")
    assert math.isfinite(run(settings, tmp_path / "run")["loss"])
    assert "lr" not in lines(tmp_path / "run")[0]
    few = small(prepare(settings), rounds=2, examples=8).recipe.train
    assert (few.steps, few.local_epochs) == (10, None)


def test_a_range_test_is_at_one_rate(recipe):
    few = small(prepare(recipe(*EVERYTHING)), rounds=2, examples=8).recipe.train
    assert (few.schedule, few.warmup, few.steps) == ("constant", 0.0, 2)


def test_a_private_run_is_refused_where_its_schedule_ends_at_nothing(recipe):
    private = ("strategy.name=ffa", "privacy.epsilon=3", "train.schedule=cosine")
    prepare(recipe(*private))
    with pytest.raises(SettingsError, match=r"the smallest of the schedule, .* does not change the weights"):
        prepare(recipe(*private, "train.min_lr_rate=1e-9"))


def test_private_moments_go_on_and_say_that_they_are(recipe, tmp_path):
    private = ("strategy.name=ffa", "privacy.epsilon=3", "privacy.insecure_seed=5", "train.optimizer=adamw")
    settings = ("rounds.count=2", "train.steps=1", "train.lr=0.02", *private)
    kept = recipe(*settings, "train.optimizer_state=keep")
    run(kept, tmp_path / "kept")
    run(recipe(*settings), tmp_path / "reset")
    assert lines(tmp_path / "kept")[0]["evaluation"] == lines(tmp_path / "reset")[0]["evaluation"]
    found, other = state(kept, tmp_path / "kept"), state(recipe(*settings), tmp_path / "reset")
    assert any(not torch.equal(found[name], other[name]) for name in found)
