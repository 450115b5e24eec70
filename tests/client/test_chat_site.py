"""A deployed site with conversations: it answers private tasks, whatever single rows of its file hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from tests.chats import save_chat_model, tokenizer_with, turns
from tests.privacy.tasks import first_task

ADAPTER = AdapterSettings(r=2, alpha=2)
SECRET = "zebra"
MALFORMED = {
    "no answer": json.dumps({"messages": [{"role": "user", "content": SECRET}]}),
    "no role": json.dumps({"messages": [{"content": SECRET}]}),
    "an object": json.dumps({"messages": {"role": "assistant", "content": SECRET}}),
    "a text": json.dumps({"messages": SECRET}),
    "a number for a content": json.dumps({"messages": [{"role": "assistant", "content": 7}]}),
    "no JSON": '{"messages": [{"role": "user", "cont',
    "an answer of nothing": json.dumps({"messages": turns(SECRET, "")}),
    "a question that leaves no room": json.dumps({"messages": turns(SECRET * 20, "yes")}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_chat_model(tmp_path_factory.mktemp("chats") / "model")


def site(folder: Path, model: str, *more: str, policy: str = "") -> ClientSettings:
    """Thirty sums, and more lines as they are written."""
    folder.mkdir()
    lines = [json.dumps({"messages": turns(f"{n}+{n}?", str(2 * n))}) for n in range(30)]
    (folder / "chats.jsonl").write_text("\n".join([*lines, *more]) + "\n")
    (folder / "policy.yaml").write_text(f"base_models: [{model}]\n{policy}")
    data = {"task": "causal-lm", "format": "messages", "train": folder / "chats.jsonl"}
    return ClientSettings(
        site="a", coordinator="c:1", data=SiteData(**data), policy=folder / "policy.yaml", state=folder / "state"
    )


def asked_for(model: str, **changes: Any) -> tuple[Task, bytes]:
    on = ModelSettings(id=model, task="causal-lm", max_tokens=40)
    return first_task(on, (), Factor.B, adapter=ADAPTER, **changes)


def test_a_private_task_is_answered(model, tmp_path):
    report, blob = respond(*asked_for(model), site(tmp_path / "site", model))
    assert (report.outcome, report.code, report.train_loss, report.received) == ("trained", None, None, None)
    assert blob


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_no_row_of_a_file_makes_a_private_task_fail(model, tmp_path, line):
    report, blob = respond(*asked_for(model), site(tmp_path / "site", model, line))
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    assert SECRET not in report.model_dump_json()


def test_without_privacy_such_a_row_ends_the_task_and_its_words_stay_at_the_site(model, tmp_path):
    settings = site(tmp_path / "site", model, MALFORMED["no answer"], policy="require_privacy: false\n")
    report, blob = respond(*asked_for(model, privacy={}), settings)
    assert (report.outcome, report.code, blob) == ("failed", "settings", None)
    assert SECRET not in report.model_dump_json()


def test_a_test_row_with_a_token_that_the_model_lacks_fails_no_private_task_that_tells_figures(model, tmp_path):
    wider = tmp_path / "wider"
    shutil.copytree(model, wider)
    tokenizer = tokenizer_with()
    tokenizer.add_tokens(["<zz>"])
    tokenizer.save_pretrained(wider)
    settings = site(tmp_path / "site", str(wider), policy="allow_metrics: true\n")
    tests = [json.dumps({"messages": turns(f"{n}-{n}?", "0")}) for n in range(5)]
    (tmp_path / "test.jsonl").write_text("\n".join([*tests, json.dumps({"messages": turns("q", "<zz> a")})]) + "\n")
    data = settings.data.model_copy(update={"test": tmp_path / "test.jsonl"})
    asked = asked_for(str(wider), privacy={"epsilon": 3.0, "report_metrics": True})
    report, blob = respond(*asked, settings.model_copy(update={"data": data}))
    assert (report.outcome, report.code) == ("trained", None)
    assert report.received is not None
    assert blob


def test_a_base_without_a_chat_template_is_found_out_before_the_charge(model, tmp_path):
    bare = save_chat_model(tmp_path / "bare", template=None)
    settings = site(tmp_path / "site", bare)
    report, blob = respond(*asked_for(bare), settings)
    assert (report.outcome, report.code, blob) == ("failed", "settings", None)
    assert not list(settings.state.rglob("ledger.jsonl"))
