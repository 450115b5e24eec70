"""An adapter folder on another machine: nothing in it is a path of the first one, and its lines run where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel

from fedlora.adapters import initial_adapter, write
from fedlora.adapters.export import export_adapter
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.loaded_model import LoadedModel, loaded_model
from fedlora.models.named import NamedBase, named_base
from fedlora.models.packaged import PACKAGED
from fedlora.tasks.registry import TASKS, task_named
from fedlora.tasks.usage import Loading
from tests.exported import lines_of

LABELS = ("bad", "good")


def exported(model_id: str, folder: Path, **more: object) -> LoadedModel:
    settings = AdapterSettings(r=2, alpha=3.0)
    home = loaded_model(ModelSettings(id=model_id, max_tokens=16, **more), settings, LABELS)
    start = initial_adapter(home.model, settings, seed=0)
    adapter = start.with_tensors({name: tensor + 0.05 for name, tensor in start.tensors().items()})
    write(home.model, adapter)
    export_adapter(
        folder, adapter, total={}, base=home.named, model=home.model, task="sequence-classification", labels=LABELS,
        max_tokens=16, privacy="It cost nothing.",
    )  # fmt: skip
    return home


def run_as_pasted(folder: Path, monkeypatch) -> dict:
    """In the folder, and not a letter of the lines changed."""
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(lines_of(folder), names)  # noqa: S102 - the README's own lines are what is tested
    return names


def test_no_file_of_the_folder_holds_a_path_of_this_machine(tiny_model, tmp_path):
    exported(tiny_model, tmp_path / "adapter")
    for file in (tmp_path / "adapter").iterdir():
        content = file.read_bytes()
        assert str(tmp_path).encode() not in content
        assert str(Path(tiny_model).parent).encode() not in content


def test_a_folder_carried_elsewhere_with_its_base_beside_it_computes_the_same_by_the_lines_as_they_are(
    tiny_model, tmp_path, monkeypatch
):
    home = exported(tiny_model, tmp_path / "here" / "adapter")
    moved = tmp_path / "there" / "moved"
    shutil.copytree(tmp_path / "here" / "adapter", moved)
    shutil.rmtree(tmp_path / "here")
    shutil.copytree(tiny_model, moved / "tiny-bert")
    names = run_as_pasted(moved, monkeypatch)
    with torch.no_grad():
        served = home.model(input_ids=names["ids"], attention_mask=names["mask"]).last_hidden_state
    assert torch.allclose(names["hidden"], served, atol=1e-5)
    assert AutoPeftModel.from_pretrained(".").peft_config["default"].base_model_name_or_path == "./tiny-bert"


def test_of_a_folder_the_readme_says_how_its_base_is_found_and_known(tiny_model, tmp_path):
    home = exported(tiny_model, tmp_path)
    said = " ".join((tmp_path / "README.md").read_text().split())
    assert "It is a local folder, `tiny-bert`, and not on a hub: get a copy from whoever trained this adapter" in said
    assert f"Its fingerprint (loaded in float32) is `{home.base.fingerprint}`." in said
    about = json.loads((tmp_path / "fedlora.json").read_text())
    assert about["base"] == {
        "id": "./tiny-bert", "fingerprint": home.base.fingerprint, "load_dtype": "float32", "revision": None,
    }  # fmt: skip
    assert (about["task"], about["labels"], about["pooling"]) == ("sequence-classification", list(LABELS), "mean")


def test_the_lines_of_a_packaged_base_run_as_they_are(tmp_path, monkeypatch):
    home = exported("demo", tmp_path)
    names = run_as_pasted(tmp_path, monkeypatch)
    with torch.no_grad():
        served = home.model(input_ids=names["ids"], attention_mask=names["mask"]).last_hidden_state
    assert torch.allclose(names["hidden"], served, atol=1e-4)
    assert PACKAGED["demo"].install in (tmp_path / "README.md").read_text()


def test_a_base_of_a_hub_is_named_by_its_id_and_the_commit_that_was_loaded(tiny_bert):
    tiny_bert.config._commit_hash = "0123abc"
    named = named_base(ModelSettings(id="org/name"), fingerprint="f" * 32, model=tiny_bert)
    assert (named.place, named.revision) == ("org/name", "0123abc")
    assert named.whereabouts.startswith("It is `org/name` on the Hugging Face hub, revision `0123abc`. Its fingerprint")
    for task in TASKS:
        loading = Loading((), "base, folder = '', ''", named.at)
        assert ', revision="0123abc")' in task_named(task).usage.script(loading, labels=LABELS, max_tokens=8)


@pytest.mark.parametrize(
    ("model_id", "place", "line"),
    [
        ("smollm2", "./smollm2", 'base = locate("smollm2")'),
        ("vits14", "./vits14", 'base = locate("vits14")'),
        ("./models/own.gguf", "./own.gguf", 'base = locate("./own.gguf")'),
        ("org/name", "org/name", 'base = "org/name"'),
    ],
)
def test_what_is_no_hub_s_is_never_taken_for_a_hub_s_id(tmp_path, monkeypatch, model_id, place, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.gguf").write_bytes(b"GGUF")
    named = named_base(ModelSettings(id=model_id), fingerprint="")
    assert (named.place, named.line) == (place, line)


def test_a_folder_without_a_dot_before_it_is_still_known_for_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert named_base(ModelSettings(id="org/name"), fingerprint="") == NamedBase("./name", "")
