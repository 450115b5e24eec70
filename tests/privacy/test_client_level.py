"""Client-level privacy: the guarantee at the top of server/client_level.py, and a run with both units."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fedlora.privacy.accounting import ClientLevel, client_level_epsilon
from fedlora.privacy.noise import SeededSource
from fedlora.privacy.settings import ClientLevelSettings
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, LowRank, Update, norm, subtract
from server.client_level import NOISE, clipped, protected, require_linear
from strategies.ffa import FFALoRA
from tests.federations import run, save_messages, save_tiny_model, tiny_recipe

TRAINS = (Factor.A, Factor.B)
SETTINGS = ClientLevelSettings(clip=1.0, noise_multiplier=0.5)


def adapter(value: float) -> Adapter:
    return Adapter({"layer": LowRank(torch.full((3, 2), value), torch.full((2, 4), value), 1.0)})


def through(values: list[float], *, asked: int, settings: ClientLevelSettings = SETTINGS, seed: int = 0):
    updates = [Update(f"c{i}", 10.0 * (i + 1), adapter(value)) for i, value in enumerate(values)]
    return list(
        protected(updates, sent=adapter(0.0), trains=TRAINS, asked=asked, settings=settings, source=SeededSource(seed))
    )


def total(updates) -> torch.Tensor:
    flat = [torch.cat([t.flatten() for t in u.adapter.tensors(TRAINS).values()]) for u in updates if u.client != NOISE]
    return torch.stack(flat).sum(0)


def test_every_update_is_clipped_as_a_whole_and_weighs_one():
    small, large, noise = through([0.01, 5.0], asked=2)
    assert norm(small.adapter.tensors(TRAINS)) == pytest.approx(0.01 * 14**0.5)
    assert norm(large.adapter.tensors(TRAINS)) == pytest.approx(1.0)
    assert {update.weight for update in (small, large, noise)} == {1.0}


def test_one_client_moves_the_sum_by_at_most_the_clip_and_the_denominator_not_at_all():
    everyone, fewer = through([5.0, -3.0, 0.1], asked=3), through([5.0, 0.1], asked=3)
    assert (total(everyone) - total(fewer)).norm() <= 1.0 + 1e-6
    assert len(everyone) == len(fewer) == 4


def test_an_update_that_is_not_finite_changes_nothing():
    broken, _ = through([float("nan")], asked=1)
    assert norm(subtract(broken.adapter.tensors(TRAINS), adapter(0.0).tensors(TRAINS))) == 0.0
    assert all(not torch.any(tensor) for tensor in clipped({"x": torch.tensor([float("inf"), 1.0])}, 1.0).values())


def test_the_noise_has_the_size_that_is_accounted():
    big = Adapter({"layer": LowRank(torch.zeros(300, 2), torch.zeros(2, 200), 1.0)})
    settings = ClientLevelSettings(clip=2.0, noise_multiplier=1.5)
    (noise,) = protected([], sent=big, trains=TRAINS, asked=0, settings=settings, source=SeededSource(1))
    values = torch.cat([tensor.flatten() for tensor in noise.adapter.tensors(TRAINS).values()])
    assert float(values.std()) == pytest.approx(3.0, rel=0.08)


def test_a_strategy_that_looks_at_single_updates_is_refused():
    class Nosy:
        traits = replace(FFALoRA().traits, linear_uploads=False)

    with pytest.raises(SettingsError, match=r"nosy looks at single ones\. Choose ffa"):
        require_linear(Nosy(), "nosy")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, *overrides)


def test_both_units_stand_side_by_side_in_the_summary(recipe, tmp_path):
    client_level = "privacy.client_level={clip: 0.5, noise_multiplier: 2.0}"
    summary = run(recipe("privacy.epsilon=3", client_level, "rounds.count=2", "strategy.name=ffa"), tmp_path)
    expected = client_level_epsilon([ClientLevel(noise_multiplier=2.0, rounds=2)], delta=1e-5)
    assert summary["client_level"]["epsilon"] == expected
    assert summary["client_level"]["adjacency"] == "add-or-remove-one-client"
    assert 2.9 < summary["epsilon_max"] <= 3.0
    assert any("trust" in leak or "added by it" in leak for leak in summary["leaks"])
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert all(line["aggregation_error"] is None for line in lines), "it depends on single updates without noise"


def test_two_runs_with_one_seed_have_different_client_level_noise(recipe, tmp_path):
    for name in ("a", "b"):
        run(recipe("privacy.client_level={clip: 0.5, noise_multiplier: 1.0}", "rounds.count=1"), tmp_path / name)
    first, second = ((tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("a", "b"))
    assert first != second
