"""Preference training through whole runs: every strategy, under privacy, and a base that moves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fedlora.config import Recipe
from fedlora.privacy.guard import Guard
from fedlora.settings import SettingsError
from server.record.lines import read_records
from simulations.run import prepare, simulate
from simulations.simulation import Simulation
from strategies.registry import STRATEGIES
from tests.chats import chat_recipe, save_chat_model
from tests.federations import CLIENTS

PRIVATE = (
    "privacy.epsilon=8", "privacy.delta=1e-3", "privacy.clip=1.0", "train.optimizer=sgd",
    "train.lr=0.5", "train.batch_size=4", "adapter.init=orthonormal",
)  # fmt: skip


def save_pairs(path: Path, *, per_client: int = 12) -> str:
    """Sums with the right result and a wrong one; returns the file."""
    lines = [
        json.dumps({"prompt": f"{n}+{m}=", "chosen": f"{n + m}", "rejected": f"{n + m + 1}?", "client": client})
        for m, client in enumerate(CLIENTS)
        for n in range(per_client)
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pairs")
    return save_chat_model(folder / "model"), save_pairs(folder / "pairs.jsonl")


def recipe(place: tuple[str, str], *overrides: str) -> Recipe:
    task = ("model.task=preference", "data.format=preference", "model.preference.beta=0.5")
    return chat_recipe(*place, *task, *overrides)


def run(simulation: Simulation, folder: Path) -> dict[str, object]:
    return simulate(simulation, folder, watch=lambda event: None)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_trains_on_preferences(place, tmp_path, name):
    kind = ["adapter.kind=lora_xs"] if name == "fedsb" else []
    summary = run(prepare(recipe(place, f"strategy.name={name}", *kind)), tmp_path / "run")
    records = list(read_records(tmp_path / "run"))
    assert [record.round for record in records] == [1, 2]
    assert set(records[-1].evaluation.metrics) == {"reward_accuracy", "reward_margin"}
    assert (summary["metric"], summary["majority"]) == ("reward_accuracy", 0.5)
    assert 0 < summary["loss"] < 2 * math.log(2)


def test_it_learns_which_answer_is_the_better_one_and_is_judged_against_choosing_by_chance(place, tmp_path):
    summary = run(prepare(recipe(place, "train.steps=8", "data.held_out=12")), tmp_path / "run")
    assert summary["loss"] < math.log(2)
    assert summary["standing"] == "better than guessing"
    assert "choosing by chance gives 0.500" in summary["verdict"][0]


def test_conversations_train_as_texts_do(place, tmp_path):
    def said(role: str, cell: str) -> list[dict[str, str]]:
        return [{"role": role, "content": cell}]

    rows = [json.loads(line) for line in Path(place[1]).read_text().splitlines()]
    lines = [
        {
            **row,
            "prompt": said("user", row["prompt"]),
            **{side: said("assistant", row[side]) for side in ("chosen", "rejected")},
        }
        for row in rows
    ]
    source = tmp_path / "chats.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)))
    asked = recipe((place[0], str(source)), "data.format=preference-messages")
    assert 0 < run(prepare(asked), tmp_path / "run")["loss"] < 2 * math.log(2)


@pytest.mark.parametrize("strategy", ["fedit", "fedsvd"])
def test_under_privacy_no_reference_is_computed_before_the_charge(place, tmp_path, strategy, monkeypatch):
    simulation = prepare(recipe(place, *PRIVATE, f"strategy.name={strategy}"))
    at_charge, authorise = [], Guard.authorise

    def watched(guard: Guard, *given: object, **options: object) -> object:
        train = simulation.data.clients[guard._client].train
        at_charge.append(dict(train.referred.get(simulation.loaded_model.model, {})))
        return authorise(guard, *given, **options)

    monkeypatch.setattr(Guard, "authorise", watched)
    summary = run(simulation, tmp_path / "run")
    assert 0 < summary["loss"] < 2 * math.log(2)
    assert at_charge[: len(CLIENTS)] == [{}] * len(CLIENTS)
    assert all(kept for kept in at_charge[len(CLIENTS) :])


def test_settings_of_preferences_beside_another_task_are_refused(place):
    with pytest.raises(SettingsError, match=r"model\.preference has no effect with model\.task=causal-lm"):
        prepare(chat_recipe(*place, "model.preference.beta=0.5"))
    with pytest.raises(SettingsError, match=r"data\.format=messages: model\.task=preference has no such format"):
        prepare(recipe(place, "data.format=messages"))
