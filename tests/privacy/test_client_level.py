"""Client-level privacy: the guarantee at the top of server/stages/client_level.py, and a run with both units."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fedlora.config.privacy import ClientLevelSettings
from fedlora.privacy.accounting import ClientLevel, client_level_epsilon
from fedlora.privacy.noise import SeededSource, grid
from fedlora.settings import SettingsError
from fedlora.updates import Adapter, Factor, LowRank, Update
from server.record import checkpoint
from server.stages.client_level import clipped, protected
from simulations.local_grid import Fault
from simulations.run import Execution, federate, prepare
from strategies.compatibility import Case, case_of, require_compatible
from strategies.ffa import FFALoRA
from tests.federations import NODES, run, save_messages, save_tiny_model, tiny_recipe

TRAINS = (Factor.A, Factor.B)
SETTINGS = ClientLevelSettings(clip=1.0, noise_multiplier=0.5)


def adapter(value: float) -> Adapter:
    return Adapter({"layer": LowRank(torch.full((3, 2), value), torch.full((2, 4), value), 1.0)})


def through(values: list[float], *, expected: int, settings: ClientLevelSettings = SETTINGS, seed: int = 0):
    updates = [Update(f"c{i}", 10.0 * (i + 1), adapter(value)) for i, value in enumerate(values)]
    return list(
        protected(
            updates, sent=adapter(0.0), trains=TRAINS, expected=expected, settings=settings, source=SeededSource(seed)
        )
    )


def flat(update: Update) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in update.adapter.tensors(TRAINS).values()]).double()


def noise_alone(expected: int, seed: int = 0) -> torch.Tensor:
    (silent,) = through([], expected=expected, seed=seed)
    return flat(silent) * (expected + 1)


def test_every_update_is_clipped_as_a_whole_and_weighs_one():
    """The same noise in both: what is left is the sum of the clipped updates."""
    (mean,) = through([0.01, 5.0], expected=2)
    wanted = torch.full((14,), 0.01 + 1 / 14**0.5, dtype=torch.float64)
    torch.testing.assert_close(3 * flat(mean) - noise_alone(2), wanted, atol=1e-5, rtol=0)
    assert mean.weight == 3.0


def test_one_client_moves_the_sum_by_at_most_the_clip_and_the_denominator_not_at_all():
    (everyone,), (fewer,) = through([5.0, -3.0, 0.1], expected=3), through([5.0, 0.1], expected=3)
    assert 0.9 < float(4 * (flat(everyone) - flat(fewer)).norm()) <= 1.0 + 1e-4
    assert everyone.weight == fewer.weight == 4.0


def test_what_is_published_lies_on_the_noise_s_grid_whoever_took_part():
    """0.1.0 put the noise alone on it: the rest modulo the grid was the sum of the updates, without any noise."""
    step = grid(SETTINGS.noise_multiplier * SETTINGS.clip)
    for values in ([0.0123], [0.0123, 0.4567], []):
        (mean,) = through(values, expected=3)  # 4 is a power of two: dividing by it rounds nothing
        assert torch.equal((4 * flat(mean)) % step, torch.zeros(14, dtype=torch.float64))


def test_a_start_off_the_grid_adds_nothing_of_the_updates():
    """What an observer subtracts is what was sent; the residue is then the rounding of float32, the same for all."""
    sent = adapter(0.02)
    common = {"sent": sent, "trains": TRAINS, "expected": 3, "settings": SETTINGS}
    step = grid(SETTINGS.noise_multiplier * SETTINGS.clip)
    for values in ([0.0323], [0.0323, 0.4767], []):
        updates = [Update(str(value), 1.0, adapter(value)) for value in values]
        (mean,) = protected(updates, source=SeededSource(0), **common)
        whole = 4 * (flat(mean) - flat(Update("sent", 1.0, sent)))
        assert float((whole / step - (whole / step).round()).abs().max()) * step < 4 * 2**-24


def test_more_updates_than_expected_end_the_round():
    with pytest.raises(ValueError, match="more than the 2 updates"):
        through([0.1, 0.2, 0.3], expected=2)


def test_an_update_that_is_not_finite_changes_nothing():
    (broken,) = through([float("nan")], expected=1)
    assert torch.equal(2 * flat(broken), noise_alone(1))
    assert all(not torch.any(tensor) for tensor in clipped({"x": torch.tensor([float("inf"), 1.0])}, 1.0).values())


def test_the_noise_has_the_size_that_is_accounted():
    big = Adapter({"layer": LowRank(torch.zeros(300, 2), torch.zeros(2, 200), 1.0)})
    settings = ClientLevelSettings(clip=2.0, noise_multiplier=1.5)
    (noise,) = protected([], sent=big, trains=TRAINS, expected=0, settings=settings, source=SeededSource(1))
    assert float(flat(noise).std()) == pytest.approx(3.0, rel=0.08)


def test_a_strategy_that_looks_at_single_updates_is_refused():
    class Nosy(FFALoRA):
        @property
        def traits(self):
            return replace(super().traits, linear_uploads=False)

    asked = tiny_recipe("m", "s", "privacy.client_level={clip: 1, noise_multiplier: 2, clients: 8}")
    with pytest.raises(SettingsError, match=r"uses single updates\. Choose one of: fedit, fedsa"):
        require_compatible(Case(asked, Nosy()))
    require_compatible(Case(asked, FFALoRA()))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    model, source = save_tiny_model(folder / "model"), save_messages(folder / "messages.csv")
    return lambda *overrides: tiny_recipe(model, source, *overrides)


def test_both_units_stand_side_by_side_in_the_summary(recipe, tmp_path):
    client_level = "privacy.client_level={clip: 0.5, noise_multiplier: 2.0, clients: 4}"
    summary = run(recipe("privacy.epsilon=3", client_level, "rounds.count=2", "strategy.name=ffa"), tmp_path)
    expected = client_level_epsilon([ClientLevel(noise_multiplier=2.0, rounds=2)], delta=1e-5)
    assert summary["client_level"]["epsilon"] == expected
    assert summary["client_level"]["adjacency"] == "add-or-remove-one-client"
    assert 2.9 < summary["epsilon_max"] <= 3.0
    assert any("trust" in leak or "is added there" in leak for leak in summary["leaks"])
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert all(line["aggregation_error"] is None for line in lines), "it depends on single updates without noise"


def test_a_round_that_a_crash_makes_the_loop_do_again_is_counted_again(recipe, tmp_path, monkeypatch):
    """Its first noise was seen: by the evaluation, and by whoever reads rounds.jsonl."""
    settings = recipe("privacy.client_level={clip: 0.5, noise_multiplier: 2.0, clients: 4}", "rounds.count=2")
    write = checkpoint.write

    def die(path, progress, **options) -> None:
        if progress.round == 2:
            raise OSError("the disk is gone")
        write(path, progress, **options)

    monkeypatch.setattr("server.record.journal.checkpoint.write", die)
    with pytest.raises(OSError, match="the disk is gone"):
        run(settings, tmp_path)
    monkeypatch.setattr("server.record.journal.checkpoint.write", write)
    summary = run(settings, tmp_path, resume=True)
    assert (summary["rounds"], summary["client_level"]["rounds"]) == (2, 3)
    expected = client_level_epsilon([ClientLevel(noise_multiplier=2.0, rounds=3)], delta=1e-5)
    assert summary["client_level"]["epsilon"] == expected


def test_two_runs_with_one_seed_have_different_client_level_noise(recipe, tmp_path):
    for name in ("a", "b"):
        run(
            recipe("privacy.client_level={clip: 0.5, noise_multiplier: 1.0, clients: 4}", "rounds.count=1"),
            tmp_path / name,
        )
    first, second = ((tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("a", "b"))
    assert first != second


def test_noise_and_denominator_do_not_follow_who_is_connected(tmp_path, monkeypatch):
    """Of seven, eight and nine connected clients, eight expected: one noise, one denominator, never nine updates."""
    names = tuple(f"c{number}" for number in range(9))
    monkeypatch.setattr("tests.federations.CLIENTS", names)
    model, source = save_tiny_model(tmp_path / "model"), save_messages(tmp_path / "messages.csv", per_client=12)
    settings = ("privacy.client_level={clip: 0.5, noise_multiplier: 2.0, clients: 8}", "rounds.count=1")
    simulation = prepare(tiny_recipe(model, source, *settings, "data.held_out=9"))
    rounds, answered = [], []

    def seen(updates, **given):
        answered.append(list(updates))
        rounds.append(list(protected(answered[-1], **given)))
        return iter(rounds[-1])

    monkeypatch.setattr("server.stages.client_level.protected", seen)
    for connected in (7, 8, 9):
        folder = tmp_path / str(connected)
        federate(simulation, names[:connected], folder, how=Execution(print))
    assert [[update.weight for update in updates] for updates in rounds] == [[9.0], [9.0], [9.0]]
    assert [len(found) for found in answered] == [7, 8, 8]
    for (mean,) in rounds:
        values = torch.cat([tensor.flatten() for tensor in mean.adapter.tensors((Factor.B,)).values()])
        assert float(9 * values.std()) == pytest.approx(1.0, rel=0.2), "B starts at zero: what is there is z S"


@pytest.mark.parametrize("silent", [None, "blue"])
def test_no_client_s_answer_decides_whose_others_are_summed(recipe, tmp_path, monkeypatch, silent):
    """Two are late, by more than the grace period, and within the deadline: with blue's answer the quorum was there
    early, and they were left out; without it they were not."""
    settings = recipe(
        "privacy.client_level={clip: 0.5, noise_multiplier: 2.0, clients: 4}", "rounds.count=1", "rounds.quorum=0.5",
        "rounds.grace_s=0.1", "rounds.deadline_s=20",
    )  # fmt: skip
    summed: list[str] = []

    def seen(updates, **given):
        def told():
            for update in updates:
                summed.append(update.client)
                yield update

        return protected(told(), **given)

    def faults(node, message):
        site = next(name for name, number in NODES.items() if number == node)
        return Fault("error") if site == silent else Fault("delay", delay_s=1.0) if site in ("red", "white") else None

    monkeypatch.setattr("server.stages.client_level.protected", seen)
    run(settings, tmp_path, faults=faults)
    assert sorted(summed) == sorted({"blue", "green", "red", "white"} - {silent})


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("privacy.client_level.clients=8",), 8),
        (("data.partition=iid", "data.clients=10"), 10),
        (("data.partition=iid", "data.clients=10", "rounds.fraction=0.25"), 3),
        (("data.partition=iid", "data.clients=10", "privacy.client_level.clients=6"), 6),
        (("mode=pooled",), 1),
    ],
)
def test_the_recipe_alone_says_how_many_clients_are_expected(overrides, expected):
    recipe = tiny_recipe("m", "s", "privacy.client_level={clip: 0.5, noise_multiplier: 2.0}", *overrides)
    assert recipe.expected_clients == expected
    assert [recipe.asks(connected) for connected in (1, 1000)] == [1, expected]


def test_a_recipe_that_cannot_know_its_denominator_is_refused():
    with pytest.raises(SettingsError, match=r"set privacy\.client_level\.clients to the number of clients"):
        require_compatible(case_of(tiny_recipe("m", "s", "privacy.client_level={clip: 0.5, noise_multiplier: 2.0}")))
    with pytest.raises(SettingsError, match=r"client_level\.delta 0\.2 is not below 1 / 8"):
        tiny_recipe("m", "s", "privacy.client_level={clip: 1, noise_multiplier: 2, clients: 8, delta: 0.2}")
    known = tiny_recipe(
        "m", "s", "privacy.client_level={clip: 1, noise_multiplier: 2, delta: 0.2}", "data.partition=iid",
        "data.clients=8",
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"client_level\.delta=0\.2 is not below 1 / 8"):
        require_compatible(case_of(known))
