"""A base with code of its own: nothing of it runs, unless a list names the folder with the hash of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.base import load_base
from fedlora.models.loaded_model import loaded_model
from fedlora.plugins import gate
from fedlora.plugins.base_code import hash_of_code
from fedlora.settings import SettingsError
from fedlora.updates import Factor
from tests.federations import save_tiny_model
from tests.privacy.tasks import first_task

LABELS = ("bad", "good")
OWN = """
from pathlib import Path
from transformers import BertConfig, BertModel

Path({ran!r}).touch()


class OurConfig(BertConfig):
    model_type = "ours"


class Ours(BertModel):
    config_class = OurConfig
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A tiny BERT under another name, with the file that knows it; it leaves a trace where it runs."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(gate, "_open_to", {})
    place = Path(save_tiny_model(tmp_path / "ours"))
    config = json.loads((place / "config.json").read_text())
    own = {"model_type": "ours", "auto_map": {"AutoConfig": "ours.OurConfig", "AutoModel": "ours.Ours"}}
    (place / "config.json").write_text(json.dumps({**config, **own, "architectures": ["Ours"]}))
    (place / "ours.py").write_text(OWN.format(ran=str(tmp_path / "ran")))
    return place


def on(folder: Path) -> ModelSettings:
    return ModelSettings(id=str(folder), max_tokens=16)


def test_nothing_of_it_runs_and_the_refusal_has_the_line_that_lists_it(folder):
    with pytest.raises(SettingsError, match="comes with code of its own, which would run beside") as refused:
        load_base(on(folder), LABELS)
    assert json.dumps({str(folder): hash_of_code(folder)}) in str(refused.value)
    assert not (folder.parent / "ran").exists()


def test_what_is_listed_runs_and_is_part_of_the_fingerprint(folder):
    gate.open_to({str(folder): hash_of_code(folder)})
    base = load_base(on(folder), LABELS)
    assert (folder.parent / "ran").exists()
    assert type(base.model).__name__ == "Ours"
    (folder / "ours.py").write_text((folder / "ours.py").read_text() + "\n# read again\n")
    gate.open_to({str(folder): hash_of_code(folder)})
    assert load_base(on(folder), LABELS).fingerprint != base.fingerprint


@pytest.mark.parametrize("change", ["the file", "a file beside it", "the name"])
def test_another_file_or_another_name_is_not_what_was_listed(folder, change):
    name, listed = str(folder), hash_of_code(folder)
    gate.open_to({f"{name}/" if change == "the name" else name: listed})
    if change == "the file":
        (folder / "ours.py").write_text("import os\n")
    elif change == "a file beside it":
        (folder / "more.py").write_text("import os\n")
    with pytest.raises(SettingsError, match=r"not listed under|are not those that were listed"):
        load_base(on(folder), LABELS)
    assert not (folder.parent / "ran").exists()


def test_any_is_of_installed_packages_and_code_of_another_model_is_never_taken(folder):
    gate.open_to("any")
    with pytest.raises(SettingsError, match=re.escape("give the model as an object: fedlora.simulate(")):
        load_base(on(folder), LABELS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "org/other--ours.Ours"}}))
    gate.open_to({str(folder): hash_of_code(folder)})
    with pytest.raises(SettingsError, match="takes it from another model"):
        load_base(on(folder), LABELS)
    assert not (folder.parent / "ran").exists()


def read_elsewhere(folder: Path, how: str) -> None:
    """A listed folder whose config.json leads to a file beside it that nobody has listed."""
    other = folder.parent / "other"
    other.mkdir()
    (other / "ours.py").write_text((folder / "ours.py").read_text())
    config = json.loads((folder / "config.json").read_text())
    lead = f"{other}/" if how == "a path" else f"{other}--"
    away = {**config, "auto_map": {"AutoConfig": f"{lead}ours.OurConfig", "AutoModel": f"{lead}ours.Ours"}}
    if how == "another config":
        (folder / "config.4.0.0.json").write_text(json.dumps(away))
        away = {**config, "configuration_files": ["config.4.0.0.json"]}
    (folder / "config.json").write_text(json.dumps(away))


@pytest.mark.parametrize("how", ["a path", "another config"])
def test_code_outside_of_a_listed_folder_never_runs(folder, how):
    read_elsewhere(folder, how)
    gate.open_to({str(folder): hash_of_code(folder)})
    with pytest.raises(SettingsError, match=r"from another model or folder|leaves it to other files"):
        load_base(on(folder), LABELS)
    assert not (folder.parent / "ran").exists()


def test_a_site_runs_what_its_policy_lists_and_no_message_changes_that(folder, tmp_path):
    gate.open_to({str(folder): hash_of_code(folder)})
    asked = first_task(on(folder), LABELS, Factor.B, adapter=AdapterSettings(r=2), privacy={})
    site = tmp_path / "site"
    site.mkdir()
    (site / "rows.csv").write_text(
        "text,label\n" + "".join(f"great crew {n},good\nlate bag {n},bad\n" for n in range(20))
    )
    for listed, outcome in (({}, "failed"), ({str(folder): hash_of_code(folder)}, "trained")):
        (site / "policy.yaml").write_text(
            f"base_models: [{folder}]\nrequire_privacy: false\nplugins: {json.dumps(listed)}\n"
        )
        settings = ClientSettings(
            site="a", coordinator="c:1", data=SiteData(train=site / "rows.csv"), policy=site / "policy.yaml",
            state=site / "state",
        )  # fmt: skip
        loaded_model.cache_clear()  # a process of its own
        report, _ = respond(*asked, settings)
        assert report.outcome == outcome
