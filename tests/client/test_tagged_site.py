"""A deployed site with tagged words: it answers private tasks, whatever single rows of its file hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertModel, BertTokenizerFast

from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.config import AdapterSettings, ModelSettings
from fedlora.protocol.task import Task
from fedlora.updates import Factor
from tests.federations import save_tiny_model
from tests.privacy.tasks import first_task
from tests.taggings import LABELS, sentences

ADAPTER = AdapterSettings(r=2, alpha=2)
SECRET = "zebra"
MALFORMED = {
    "a tag too few": {"tokens": [SECRET, "late"], "tags": ["O"]},
    "a tag that nobody has": {"tokens": [SECRET], "tags": ["B-ZOO"]},
    "a text for words": {"tokens": SECRET, "tags": ["O"]},
    "lists in the list": {"tokens": [[SECRET]], "tags": ["O"]},
    "words of nothing": {"tokens": [" ", ""], "tags": ["O", "O"]},
    "an object": {"tokens": {SECRET: 1}, "tags": ["O"]},
    "a long text": {"tokens": [SECRET] * 500, "tags": ["O"] * 500},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tags") / "model")


def site(folder: Path, model: str, *more: object, policy: str = "") -> ClientSettings:
    """Forty sentences, and more rows as they are written."""
    folder.mkdir()
    rows = [{"tokens": words, "tags": tags} for words, tags in sentences("a", count=40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, *more])) + "\n")
    (folder / "policy.yaml").write_text(f"base_models: [{model}]\n{policy}")
    data = {"task": "token-classification", "train": folder / "rows.jsonl"}
    return ClientSettings(
        site="a", coordinator="c:1", data=SiteData(**data), policy=folder / "policy.yaml", state=folder / "state"
    )


def asked_for(model: str, **changes: Any) -> tuple[Task, bytes]:
    on = ModelSettings(id=model, task="token-classification", max_tokens=16)
    return first_task(on, LABELS, Factor.B, Factor.DENSE, adapter=ADAPTER, **changes)


def test_a_private_task_is_answered(model, tmp_path):
    report, blob = respond(*asked_for(model), site(tmp_path / "site", model))
    assert (report.outcome, report.code, report.train_loss, report.received) == ("trained", None, None, None)
    assert blob


@pytest.mark.parametrize("row", MALFORMED.values(), ids=MALFORMED)
def test_no_row_of_a_file_makes_a_private_task_fail(model, tmp_path, row):
    report, blob = respond(*asked_for(model), site(tmp_path / "site", model, row))
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    assert SECRET not in report.model_dump_json()


def test_no_row_makes_a_private_task_fail_that_tells_its_loss(tmp_path):
    """The model makes of one word what is not finite: no report can say such a loss."""
    model = save_tiny_model(tmp_path / "model")
    words = (tmp_path / "model" / "vocab.txt").read_text().split("\n")
    words += [f"word{number}" for number in range(1000)]  # invented texts have none of these
    (tmp_path / "model" / "vocab.txt").write_text("\n".join([*words, SECRET]))
    BertTokenizerFast(vocab=str(tmp_path / "model" / "vocab.txt")).save_pretrained(model)
    bert = BertModel.from_pretrained(model)
    bert.resize_token_embeddings(len(words) + 1)
    torch.nn.init.constant_(bert.embeddings.word_embeddings.weight[-1], torch.inf)
    bert.save_pretrained(model)
    row = {"tokens": [SECRET], "tags": ["O"]}
    settings = site(tmp_path / "site", model, row, policy="allow_metrics: true\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"tokens": ["late"], "tags": ["O"]}) + "\n")
    data = settings.data.model_copy(update={"test": tmp_path / "test.jsonl"})
    asked = asked_for(model, privacy={"epsilon": 3.0, "report_metrics": True}, train={"batch_size": 64, "steps": 1})
    report, blob = respond(*asked, settings.model_copy(update={"data": data}))
    assert (report.outcome, report.code, report.train_loss) == ("trained", None, None)
    assert report.received is not None
    assert blob


def test_without_privacy_such_a_row_ends_the_task_and_its_words_stay_at_the_site(model, tmp_path):
    settings = site(tmp_path / "site", model, MALFORMED["a tag too few"], policy="require_privacy: false\n")
    report, blob = respond(*asked_for(model, privacy={}), settings)
    assert (report.outcome, report.code, blob) == ("failed", "settings", None)
    assert SECRET not in report.model_dump_json()


def test_what_it_measures_without_privacy_are_the_task_s_figures(model, tmp_path):
    settings = site(tmp_path / "site", model, policy="require_privacy: false\nallow_metrics: true\n")
    report, _ = respond(*asked_for(model, privacy={}), settings)
    assert report.received is not None
    assert set(report.received.metrics) == {"f1", "precision", "recall", "token_accuracy"}


def test_a_task_whose_classes_are_no_tags_is_found_out_before_the_charge(model, tmp_path):
    settings = site(tmp_path / "site", model)
    report, blob = respond(*asked_for(model, labels=("O", "PLACE", "TIME")), settings)
    assert (report.outcome, report.code, blob) == ("failed", "settings", None)
    assert not list(settings.state.rglob("ledger.jsonl"))
