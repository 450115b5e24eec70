"""A coordinator's model answers questions of its own test set when the run is over."""

from __future__ import annotations

import json

import pytest
import yaml

import server.deployed as deployed_module
from fedlora.adapters import initial_adapter, write
from fedlora.settings import SettingsError
from server.deployed import run
from server.record.checkpoint import Progress
from server.runs.submissions import submit
from server.settings import ServerSettings, load_server
from server.trust.provision import initialise
from strategies.base import State
from tests.chats import chat_recipe, save_chat_model, save_questions


def settings_with(tmp_path, **held_out: str) -> ServerSettings:
    path = initialise(tmp_path / "server", name="net", address="x:1").folder / "server.yaml"
    own = {"held_out": {"file": save_questions(tmp_path / "own.jsonl"), "task": "causal-lm", **held_out}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **own}))
    return load_server(path)


def over_at_once(grid, recipe, needs, *, resume: bool) -> Progress:
    """A run of no round: what is left of it is the adapter that it begins with."""
    write(needs.loaded_model.model, needs.loaded_model.template)
    adapter = initial_adapter(needs.loaded_model.model, recipe.adapter, seed=0)
    return Progress(run="r", round=0, state=State(adapter))


def test_its_answers_are_in_its_folder_and_a_new_adapter_answers_as_the_base_does(tmp_path, monkeypatch):
    settings = settings_with(tmp_path, format="messages")
    model = save_chat_model(tmp_path / "model")
    recipe = chat_recipe(model, "unused.jsonl", "rounds.generate={examples: 2, max_new_tokens: 6}")
    monkeypatch.setattr(deployed_module, "coordinate", over_at_once)
    folder = submit(settings, recipe, name="one")
    run(None, settings, folder)
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [
        f"<s>user\n{question}<e>\n<s>assistant\n" for question in ("0+0?", "0+2?")
    ]
    assert all(line["answer"] == line["before"] for line in lines)
    assert summary["answers"]["rouge_l"] == summary["answers"]["rouge_l_before"]
    assert summary["verdict"][-1].startswith("Its answers to 2 questions")


def test_without_room_for_an_answer_the_run_ends_before_it_begins(tmp_path, monkeypatch):
    settings = settings_with(tmp_path, format="messages")
    recipe = chat_recipe(save_chat_model(tmp_path / "model"), "unused.jsonl", "rounds.generate.max_new_tokens=99")
    monkeypatch.setattr(deployed_module, "coordinate", over_at_once)
    with pytest.raises(SettingsError, match="99 new tokens are more than the 64 positions"):
        run(None, settings, submit(settings, recipe, name="one"))
