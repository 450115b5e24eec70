"""What both doctors, and whoever submits a run, are told of conversations: no word of classes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from client.deployment.commands import app as client
from client.deployment.enroll import accept, ask
from fedlora.config import ModelSettings
from fedlora.models.base import load_base
from server.commands.server import server
from server.runs.preflight import look_before
from server.runs.submissions import submit
from server.settings import load_server
from server.trust.provision import approve, initialise
from tests.chats import chat_recipe, save_chat_model, turns

NO_ANSWER = {"messages": [{"role": "user", "content": "anybody?"}]}


@pytest.fixture
def sides(tmp_path) -> tuple[Path, Path, str]:
    """A coordinator's folder, that of a site with 120 conversations and one without an answer, and a base model."""
    settings = initialise(tmp_path / "server", name="net", address="127.0.0.1:1")
    model = save_chat_model(tmp_path / "model")
    rows = [{"messages": turns(f"{n}+{n}?", str(2 * n))} for n in range(120)]
    lines = "\n".join(map(json.dumps, [*rows, NO_ANSWER]))
    (tmp_path / "chats.jsonl").write_text(lines + "\n")
    accept(tmp_path / "site", approve(settings, ask(tmp_path / "site", site="a")))
    declare(
        tmp_path / "site" / "client.yaml",
        data={"task": "causal-lm", "format": "messages", "train": str(tmp_path / "chats.jsonl")},
    )
    (tmp_path / "site" / "policy.yaml").write_text(f"base_models: [{model}]\n")
    return tmp_path / "server", tmp_path / "site", model


def declare(config: Path, **values: object) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **values}))


def findings(app, config: Path, *more: str) -> dict[str, dict[str, str]]:
    ran = CliRunner().invoke(app, ["doctor", "--json", "--config", str(config), *more])
    return {item["check"]: item for item in json.loads(ran.stdout)}


def fingerprint(model: str, load_dtype: str = "float32") -> str:
    return load_base(ModelSettings(id=model, task="causal-lm", max_tokens=8, load_dtype=load_dtype), ()).fingerprint


def test_a_site_hears_of_its_conversations_and_of_the_base_as_its_task_loads_it(sides):
    _, site, model = sides
    found = findings(client, site / "client.yaml", "--model", model)
    assert "class" not in " ".join(f"{item['check']} {item['said']} {item['remedy']}" for item in found.values())
    base = found["base model"]
    assert (base["grade"], base["said"].partition(" (")[0]) == (
        "good", f"{model}: fingerprint {fingerprint(model)}, held in float32",
    )  # fmt: skip
    assert re.search(r"\(configuration \w{8}, tokenizer \w{8}, chat template \w{8}; the rest is", base["said"])
    held = findings(client, site / "client.yaml", "--model", model, "--load-dtype", "bfloat16")["base model"]["said"]
    assert held.startswith(f"{model}: fingerprint {fingerprint(model, 'bfloat16')}, held in bfloat16 (")
    assert found["texts"]["grade"] == "doubtful"
    assert "1 of 121 teach nothing" in found["texts"]["said"]
    assert "anybody?" in found["texts"]["said"]
    assert found["texts"]["said"].endswith("no message is the assistant's: there is nothing to learn")
    assert "121 of 121 rows" in found["data"]["said"]


def test_a_site_hears_that_a_base_without_a_chat_template_reads_none_of_its_conversations(sides, tmp_path):
    _, site, _ = sides
    bare = save_chat_model(tmp_path / "bare", template=None)
    found = findings(client, site / "client.yaml", "--model", bare)
    assert found["texts"]["grade"] == "bad"
    assert "has no chat template" in found["texts"]["said"]


@pytest.mark.parametrize("load_dtype", ["float32", "bfloat16"])
def test_a_coordinator_hears_of_its_test_set_and_of_the_fingerprint_that_sites_must_have(sides, tmp_path, load_dtype):
    folder, _, model = sides
    config = folder / "server.yaml"
    recipe = chat_recipe(model, "unused.jsonl", f"model.load_dtype={load_dtype}")
    submit(load_server(config), recipe, name="first")
    found = findings(server, config)
    assert "classes" not in found
    assert (found["test set"]["grade"], found["test set"]["said"]) == ("doubtful", "none")
    said = found["base model of first"]["said"]
    assert f"fingerprint {fingerprint(model, load_dtype)}, held in {load_dtype} (" in said
    declare(config, held_out={"file": str(tmp_path / "chats.jsonl"), "task": "causal-lm", "format": "messages"})
    assert findings(server, config)["test set"]["said"] == "121 examples to test on"
    said = look_before(load_server(config), recipe)
    assert said[0].startswith("test set  121 of 121 rows")
    assert "class" not in " ".join(said)
