"""Sites that hold the base unlike: named, refused before anything is loaded, and allowed by a recipe only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.models.base import load_base, other_fingerprints
from fedlora.privacy.digest import task_digest
from fedlora.protocol.task import Task
from fedlora.settings import SettingsError, parse
from fedlora.updates import Factor
from tests.chats import save_chat_model, turns
from tests.privacy.tasks import first_task


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("chats") / "model")


def site(folder: Path, model: str, load_dtype: str | None) -> ClientSettings:
    folder.mkdir()
    lines = [json.dumps({"messages": turns(f"{n}+{n}?", str(2 * n))}) for n in range(12)]
    (folder / "chats.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "policy.yaml").write_text(f"base_models: [{model}]\nrequire_privacy: false\n")
    return ClientSettings(
        site="a", coordinator="c:1", policy=folder / "policy.yaml", state=folder / "state", load_dtype=load_dtype,
        data=SiteData(task="causal-lm", format="messages", train=folder / "chats.jsonl"),
    )  # fmt: skip


def asked(model: str, *also: str, **changes: Any) -> tuple[Task, bytes]:
    on = ModelSettings(id=model, task="causal-lm", max_tokens=40, also_held_as=also)
    return first_task(
        on, (), Factor.B, adapter=AdapterSettings(r=2, alpha=2), privacy={},
        **{"fingerprints": other_fingerprints(on, ()), **changes},
    )  # fmt: skip


def test_a_site_of_another_form_takes_no_part_unless_the_recipe_says_so(model, tmp_path):
    own = site(tmp_path / "site", model, "bfloat16")
    report, blob = respond(*asked(model), own)
    assert (report.outcome, report.code, blob) == ("refused", "base-held-otherwise", None)
    report, blob = respond(*asked(model, "bfloat16"), own)
    assert (report.outcome, report.held_as) == ("trained", "bfloat16")
    assert blob
    report, _ = respond(*asked(model, "nf4", fingerprints={"nf4": "0" * 32}), own)
    assert report.code == "base-held-otherwise"


def test_of_the_other_form_the_fingerprint_is_compared_as_well(model, tmp_path):
    own = site(tmp_path / "site", model, "bfloat16")
    on = ModelSettings(id=model, task="causal-lm", max_tokens=40)
    for wrong in ("0" * 32, load_base(on, ()).fingerprint):
        report, _ = respond(*asked(model, "bfloat16", fingerprints={"bfloat16": wrong}), own)
        assert (report.outcome, report.code) == ("refused", "wrong-base-model")


def test_a_site_that_says_nothing_holds_the_base_as_the_run_does(model, tmp_path):
    report, _ = respond(*asked(model, "bfloat16"), site(tmp_path / "site", model, None))
    assert (report.outcome, report.held_as) == ("trained", None)


def test_a_task_without_the_setting_is_written_as_before(model):
    with_none, state = asked(model)
    assert "fingerprints" not in with_none.model_dump_json(exclude_defaults=True)
    assert task_digest(with_none, state) == task_digest(with_none.model_copy(update={"fingerprints": {}}), state)


def test_the_run_s_own_form_is_no_other_one():
    with pytest.raises(SettingsError, match=r"lists other forms than model\.load_dtype=float32, each once"):
        parse(ModelSettings, {"also_held_as": ["float32"]})
