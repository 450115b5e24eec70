"""The learning rate over a run: its shapes, and that no unit of it is at nothing."""

from __future__ import annotations

import pytest

from fedlora.config import Recipe, TrainSettings, override
from fedlora.config.schedule import Schedule, rate_of_round, schedule_of, share_at
from fedlora.settings import SettingsError, parse

SHAPES = ("constant", "linear", "cosine")


def shares(schedule: Schedule) -> list[float]:
    return [schedule.share(unit) for unit in range(schedule.units)]


def recipe(*settings: str) -> Recipe:
    return parse(Recipe, override({}, settings))


def test_shapes_are_those_of_their_formulas():
    assert shares(Schedule("linear", 4, 0, 0.25)) == [1.0, 0.75, 0.5, 0.25]
    assert shares(Schedule("cosine", 3, 0, 0.5)) == [1.0, 0.75, 0.5]
    assert shares(Schedule("cosine", 5, 0, 0.1))[2] == pytest.approx(0.55)
    assert shares(Schedule("constant", 5, 3, 0.1)) == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares(Schedule("linear", 5, 1, 0.5)) == pytest.approx([0.5, 1.0, 0.5 + 0.5 * 2 / 3, 0.5 + 0.5 / 3, 0.5])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("units", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("warmup", [0, 1, 4, 10])
def test_every_share_is_above_zero_at_most_one_and_not_below_the_least(shape, units, warmup):
    schedule = schedule_of(TrainSettings(schedule=shape, warmup=warmup, min_lr_rate=0.01), rounds=units, steps=1)
    found = shares(schedule)
    assert all(0 < schedule.least <= share <= 1 for share in found)
    assert schedule.least in found
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert schedule.share(units + 5) == found[-1], "rounds beyond the plan are at the end's rate"


@pytest.mark.parametrize("over", ["rounds", "steps"])
def test_without_a_schedule_every_share_is_exactly_one(over):
    train = TrainSettings(schedule_over=over)
    assert {share_at(train, number=n, rounds=7, step=s, steps=3) for n in range(1, 8) for s in range(3)} == {1.0}
    assert schedule_of(train, rounds=7, steps=3).least == 1.0


def test_a_rate_is_held_for_a_round_or_falls_with_every_step():
    def of(over: str) -> list[float]:
        train = TrainSettings(schedule="linear", schedule_over=over, min_lr_rate=0.1)
        return [share_at(train, number=n, rounds=2, step=s, steps=5) for n in (1, 2) for s in range(5)]

    assert of("rounds") == [1.0] * 5 + [0.1] * 5
    assert of("steps") == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize(("warmup", "rounds", "held"), [(0.1, 30, 3), (0.1, 10, 1), (0.05, 30, 2), (2, 30, 2)])
def test_a_warm_up_is_a_share_of_the_run_or_a_number(warmup, rounds, held):
    assert schedule_of(TrainSettings(warmup=warmup), rounds=rounds, steps=4).warmup == held


def test_the_rate_of_a_round_is_known_before_it():
    falling = recipe("train.schedule=linear", "train.lr=0.5", "rounds.count=5", "train.min_lr_rate=0.2")
    assert [rate_of_round(falling, number) for number in (1, 3, 5)] == pytest.approx([0.5, 0.3, 0.1])
    assert rate_of_round(recipe(), 1) is None
    assert rate_of_round(recipe("train.warmup=3"), 1) == 0.0025
    by_rows = ("train.local_epochs=1", "train.schedule=cosine")
    assert rate_of_round(recipe(*by_rows, "train.schedule_over=steps"), 1) is None
    assert rate_of_round(recipe(*by_rows), 1) == 0.01


def test_a_round_has_steps_or_epochs_and_never_both():
    epochs = recipe("train.local_epochs=2").train
    assert (epochs.steps, epochs.local_epochs) == (None, 2)
    assert parse(TrainSettings, epochs.model_dump(mode="json")) == epochs, "as it travels"
    assert recipe("train.steps=null", "train.local_epochs=2").train == epochs
    for both in (("train.steps=10", "train.local_epochs=2"), ("train.steps=null",)):
        with pytest.raises(SettingsError, match="give one"):
            recipe(*both)
    with pytest.raises(ValueError, match="counts no steps"):
        _ = epochs.counted_steps
