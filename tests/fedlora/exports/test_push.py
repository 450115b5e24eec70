"""`fedlora push`, over HTTP to a hub on this machine: what it sends, and that it sends nothing else, nor unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants, get_token
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedlora.cli import app
from fedlora.exports import pushing
from fedlora.gate.verdict import Check, Gate, hash_of, now
from fedlora.settings import RunError, SettingsError
from tests.fedlora.exports.command import export
from tests.fedlora.exports.hub import TOKEN, Hub, hub_here
from tests.fedlora.exports.language_model import save_base, with_ranks

YES = "--yes-publish"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An adapter of a base that its own card puts under MIT, let pass by the gate."""
    folder = tmp_path_factory.mktemp("push")
    base = save_base(folder / "base")
    (Path(base) / "README.md").write_text("---\nlicense: mit\n---\n")
    adapter = with_ranks(base, (2,)).export(folder / "adapter")
    looked_at(adapter, passed=True)
    return adapter


@pytest.fixture
def adapter(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "adapter")


@pytest.fixture
def hub(monkeypatch):
    with hub_here() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is no plain HTTP
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert get_token() == TOKEN
        yield found


def looked_at(adapter: Path, *, passed: bool) -> None:
    checks = (Check(name="change", passed=passed, said="It was moved too far."),)
    Gate(adapter=hash_of(adapter), when=now(), checks=checks).write(adapter)


def on_base(adapter: Path, base: str, **more: object) -> Path:
    kept = json.loads((adapter / "fedlora.json").read_text())
    (adapter / "fedlora.json").write_text(json.dumps({**kept, "base": {**kept["base"], "id": base}, **more}))
    return adapter


def push(*words: object, typed: str | None = None) -> str:
    answer = CliRunner().invoke(app, ["push", *map(str, words)], input=typed, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_what_arrives_is_the_export_byte_for_byte_in_one_private_commit_and_nothing_else(adapter, hub: Hub, tmp_path):
    said = push(adapter, "ann/chats", YES)
    export(adapter, "--out", tmp_path / "out")
    found = hub.repositories["ann/chats"]
    assert (found["private"], hub.commits) == (True, 1)
    assert found["files"] == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    head = yaml.safe_load(found["files"]["README.md"].decode().split("---\n")[1])
    assert (head["license"], head["gate"]["passed"], head["library_name"]) == ("mit", True, "peft")
    assert f"Published by ann: {hub.url}/ann/chats/commit/" in said
    assert TOKEN not in said
    push(adapter, "ann/chats", YES)
    assert (hub.commits, hub.repositories["ann/chats"]["private"]) == (2, True)


def test_without_the_word_no_request_at_all_is_made(adapter, hub: Hub, monkeypatch):
    with pytest.raises(SettingsError, match=r"nothing was sent: there is no terminal to ask at\. Say --yes-publish\."):
        push(adapter, "ann/chats")
    monkeypatch.setattr(pushing, "at_a_terminal", lambda: True)
    for typed in ("\n", "y\n", "yes\n", "ann/chat\n"):
        with pytest.raises(SettingsError, match=r"nothing was sent: that is not the name"):
            push(adapter, "ann/chats", typed=typed)
    assert hub.asked == []
    said = push(adapter, "ann/chats", "--public", typed="ann/chats\n")
    assert f"To {hub.url}, ann/chats (everybody can read it there):" in said
    assert "adapter_model.safetensors" in said.partition("Type ann/chats")[0]
    assert not hub.repositories["ann/chats"]["private"]


def test_what_nobody_looked_at_or_what_the_gate_holds_or_what_has_changed_since_is_not_sent(adapter, hub: Hub):
    looked_at(adapter, passed=False)
    with pytest.raises(SettingsError, match=r"the gate holds .*It was moved too far\."):
        push(adapter, "ann/chats", YES)
    (adapter / "gate.json").unlink()
    with pytest.raises(SettingsError, match=r"nobody has looked at .* yet: run `fedlora gate"):
        push(adapter, "ann/chats", YES, "--override", "all the same")
    looked_at(adapter, passed=True)
    tensors = adapter / "adapter_config.json"
    tensors.write_text(tensors.read_text().replace('"lora_alpha": 8', '"lora_alpha": 16'))
    with pytest.raises(SettingsError, match=r"has changed since the gate looked at it"):
        push(adapter, "ann/chats", YES)
    assert hub.asked == []


def test_past_a_gate_that_holds_only_with_a_reason_that_is_on_the_card(adapter, hub: Hub):
    looked_at(adapter, passed=False)
    push(adapter, "ann/chats", YES, "--override", "a study of broken adapters")
    head = yaml.safe_load(hub.repositories["ann/chats"]["files"]["README.md"].decode().split("---\n")[1])
    assert head["gate"]["overrides"][0]["why"] == "a study of broken adapters"


def test_terms_of_bases_are_obeyed(adapter, hub: Hub):
    with pytest.raises(SettingsError, match=r"nobody has said under which licence org/name is"):
        push(on_base(adapter, "org/name", license=None), "ann/chats", YES)
    on_base(adapter, "meta-llama/Llama-3.2-1B")
    with pytest.raises(SettingsError, match=r"begins with `Llama`: ann/Llama-chats"):
        push(adapter, "ann/chats", YES)
    with pytest.raises(
        SettingsError, match=r"--license mit: what is made of meta-llama/Llama-3\.2-1B is under its own"
    ):
        push(adapter, "ann/Llama-chats", YES, "--license", "mit")
    with pytest.raises(SettingsError, match=r"REPO 'chats': write it as OWNER/NAME"):
        push(adapter, "chats", YES)
    assert hub.asked == []
    push(adapter, "ann/Llama-chats", YES)
    files = hub.repositories["ann/Llama-chats"]["files"]
    assert files["NOTICE"].startswith(b"Llama 3.2 is licensed")
    push(on_base(adapter, "org/name", license=None), "ann/other", YES, "--license", "apache-2.0")


def test_a_repository_that_everybody_reads_or_that_holds_other_weights_gets_nothing(adapter, hub: Hub):
    hub.add("ann/open", private=False)
    with pytest.raises(SettingsError, match=r"ann/open is there already, and everybody can read it: say --public"):
        push(adapter, "ann/open", YES)
    hub.add("ann/whole", private=True, **{"model.safetensors": b"a whole model"})
    with pytest.raises(SettingsError, match=r"ann/whole holds model\.safetensors, which a program may load"):
        push(adapter, "ann/whole", YES)
    assert (hub.commits, hub.uploads) == (0, {})


def test_what_the_hub_says_against_it_is_said(adapter, hub: Hub, monkeypatch):
    hub.refuses_commits = True
    with pytest.raises(RunError, match=r"ann/chats: the hub refused it \(403\): .*storage quota"):
        push(adapter, "ann/chats", YES)
    assert hub.repositories["ann/chats"]["files"] == {}
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(RunError, match=r"the hub refused it \(401\)"):
        push(adapter, "ann/chats", YES)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"the hub cannot be reached \(ConnectError"):
        push(adapter, "ann/chats", YES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError, match=r"told to ask no hub .*: nothing was sent"):
        push(adapter, "ann/chats", YES)


def test_what_was_pushed_loads_as_it_was(adapter, hub: Hub, tmp_path):
    push(adapter, "ann/chats", YES)
    (tmp_path / "there.safetensors").write_bytes(hub.repositories["ann/chats"]["files"]["adapter_model.safetensors"])
    there, here = load_file(tmp_path / "there.safetensors"), load_file(adapter / "adapter_model.safetensors")
    assert there.keys() == here.keys()
    assert all((there[name] == here[name]).all() for name in here)
