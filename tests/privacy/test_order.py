"""What a message names sees nothing of the data before the charge: a tokenizer that records what it is shown says so.

Deployed sites, from client.yaml and policy.yaml on. Each refusal is tried at a site that holds a phrase and at one that
does not: both answer alike.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer, DebertaV2Config, DebertaV2Model

import client.deployed as deployed
import client.own_rows as own_rows
import fedlora.models.base as models
from client.deployed import respond
from client.settings import ClientSettings, SiteData
from fedlora.adapters import initial_adapter
from fedlora.config import AdapterSettings, ModelSettings, load
from fedlora.models.base import load_base
from fedlora.models.loaded_model import loaded_model
from fedlora.privacy.digest import task_digest
from fedlora.privacy.ledger import LedgerFiles, read_ledger
from fedlora.privacy.receipt import verified
from fedlora.protocol.task import Task
from fedlora.wire.state import encode_state
from strategies.registry import build
from tests.federations import save_tiny_model
from tests.privacy.rounds import ADAPTER
from tests.privacy.tasks import task

LABELS = ("good", "bad")
PHRASE = "my bag lost"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Base models by what they are: `crafted` has the weights of `honest`, and a normaliser that blows a phrase up."""
    folder = tmp_path_factory.mktemp("models")
    honest = Path(save_tiny_model(folder / "honest"))
    crafted = Path(shutil.copytree(honest, folder / "crafted"))
    rules = json.loads((crafted / "tokenizer.json").read_text())
    blow_up = {"type": "Replace", "pattern": {"String": "lost"}, "content": "late " * 50}
    rules["normalizer"] = {"type": "Sequence", "normalizers": [rules["normalizer"], blow_up]}
    (crafted / "tokenizer.json").write_text(json.dumps(rules))
    config = json.loads((crafted / "tokenizer_config.json").read_text())
    (crafted / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512})
    )
    coupled = Path(shutil.copytree(honest, folder / "unsupported"))
    with torch.random.fork_rng(devices=[]):
        settings = DebertaV2Config(
            vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=32, relative_attention=True, pos_att_type=["p2c", "c2p"], share_att_key=True,
            position_buckets=8, norm_rel_ebd="layer_norm",
        )  # fmt: skip
        DebertaV2Model(settings).save_pretrained(coupled)
    config = json.loads((coupled / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (coupled / "tokenizer_config.json").write_text(json.dumps(config))
    return {path.name: str(path) for path in (honest, crafted, coupled)}


class Recorder:
    """Every text that a tokenizer was given, with what the site's ledger held at that moment."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ledgers: list[list[str]] = []
        self.state: Path | None = None

    def show(self, texts: Any) -> None:
        self.texts += [texts] if isinstance(texts, str) else list(texts)
        self.ledgers.append(kinds(self.state))


def kinds(state: Path) -> list[str]:
    return [entry.kind for entry in read_ledger(LedgerFiles(state, "default"), public_key=None).entries]


@pytest.fixture
def recorder(monkeypatch) -> Iterator[Recorder]:
    seen, load = Recorder(), AutoTokenizer.from_pretrained

    def recording(*given, **options):
        tokenizer = load(*given, **options)

        class Recording(type(tokenizer)):
            def _encode_plus(self, text, *given, **options):
                seen.show(text)
                return super()._encode_plus(text, *given, **options)

            def tokenize(self, text, *given, **options):
                seen.show(text)
                return super().tokenize(text, *given, **options)

        tokenizer.__class__ = Recording
        return tokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", recording)
    forget()
    yield seen
    forget()


def forget() -> None:
    for cached in (loaded_model, own_rows._rows_in, deployed.tokenised):
        cached.cache_clear()


def site(folder: Path, policy: dict[str, Any], *, phrase: bool) -> ClientSettings:
    folder.mkdir()
    rows = [f"{word} flight {other},{'good' if word == 'great' else 'bad'}" for word in ("great", "late")
            for other in ("crew", "bag", "seat", "my", "the")]  # fmt: skip
    rows[-1] = f"{PHRASE},bad" if phrase else rows[-1]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "test.csv").write_text("text,label\ngreat my crew,good\n")
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    data = SiteData(train=folder / "rows.csv", test=folder / "test.csv")
    return ClientSettings(
        site="a", coordinator="c:1", data=data, policy=folder / "policy.yaml", state=folder / "state", folder=folder
    )


def asked_for(model: str, **changes: Any) -> tuple[Task, bytes]:
    """A task on the base model in that folder, and the state that goes with it."""
    on = ModelSettings(id=model, max_tokens=16)
    adapter = changes.get("adapter", ADAPTER)
    home = loaded_model(on, adapter, LABELS)
    values = {"model": on, "adapter": adapter, "labels": LABELS, "fingerprint": home.base.fingerprint}
    asked = task(**{**values, "train": {"batch_size": 8, "steps": 2}, **changes})
    state = encode_state(
        initial_adapter(home.model, adapter, seed=0), {}, run=asked.run, round_number=1, strategy="ffa", codec="fp32"
    )
    return asked, state


REFUSED = {
    "without privacy": ({"privacy": {}}, {}, "privacy-required"),
    "the losses": ({"privacy": {"epsilon": 3.0, "report_metrics": True}}, {}, "metrics-not-allowed"),
    "a large clip": ({"privacy": {"epsilon": 3.0, "clip": 99.0}}, {}, "clip-too-large"),
    "dropout": ({"adapter": ADAPTER.model_copy(update={"dropout": 0.1})}, {}, "private-dropout"),
    "another strategy": ({"strategy": "fedit"}, {}, "strategy-not-allowed"),
    "more than its strategy trains": ({"trains": ("A", "B", "head")}, {}, "strategy-asks-more"),
    "a fingerprint that is not the model's": ({"fingerprint": "0" * 32}, {}, "wrong-base-model"),
    "a policy without base models": ({}, {"base_models": []}, "base-model-not-allowed"),
    "an empty budget": ({}, {"epsilon_budget": 0.01}, "budget-exhausted"),
    "a delta for fewer examples": (
        {"privacy": {"epsilon": 3.0, "delta": 0.09}}, {"max_delta": 0.09}, "delta-too-large",
    ),
    "a learning rate that moves nothing": (
        {"train": {"batch_size": 8, "steps": 2, "lr": 1e-12}}, {}, "private-engine-unsupported",
    ),
    "an epsilon out of reach": (
        {"privacy": {"epsilon": 1e-6}, "train": {"batch_size": 8, "steps": 10**6}}, {}, "budget-unreachable",
    ),
}  # fmt: skip


def require_nothing_seen(recorder: Recorder, where: Path, policy: dict, asked: tuple[Task, bytes], code: str) -> None:
    """Refused with this code, whether or not the phrase is in the data, before anything was seen or charged."""
    for phrase in (False, True):
        settings = site(where / str(phrase), policy, phrase=phrase)
        recorder.state = settings.state
        report, blob = respond(*asked, settings)
        assert (report.outcome, report.code, report.examples, blob) == ("refused", code, 0, None)
        assert recorder.texts == []
        assert kinds(settings.state) == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_task_that_is_refused_has_shown_its_tokenizer_nothing(folders, recorder, tmp_path, name):
    changes, policy, code = REFUSED[name]
    listed = {"base_models": [folders["honest"]], "strategies": ["ffa"], **policy}
    require_nothing_seen(recorder, tmp_path, listed, asked_for(folders["honest"], **changes), code)


def test_a_model_that_the_engine_cannot_train_is_refused_before_the_charge(folders, recorder, tmp_path):
    listed = {"base_models": [folders["unsupported"]]}
    adapter = AdapterSettings(r=2, alpha=2, targets=("query_proj", "key_proj"))
    asked = asked_for(folders["unsupported"], adapter=adapter)
    require_nothing_seen(recorder, tmp_path, listed, asked, "private-engine-unsupported")


def test_a_tokenizer_that_was_crafted_is_another_base_model_for_every_policy(folders, recorder, tmp_path, monkeypatch):
    """The weights are those of the model that the site allows; one rule of the normaliser is not."""
    honest, crafted = (load_base(ModelSettings(id=folders[name], max_tokens=16), LABELS).fingerprint
                       for name in ("honest", "crafted"))  # fmt: skip
    assert honest != crafted
    found, locate = {"lab/encoder": folders["honest"], "evil/encoder": folders["crafted"]}, models.locate
    monkeypatch.setattr(models, "locate", lambda model_id: locate(found.get(model_id, model_id)))
    for number, (model, claimed, listed, code) in enumerate(
        [
            ("evil/encoder", crafted, ["lab/encoder"], "base-model-not-allowed"),
            ("evil/encoder", crafted, [honest], "base-model-not-allowed"),
            ("evil/encoder", honest, [honest], "wrong-base-model"),
            ("evil/encoder", honest, ["lab/encoder", honest], "wrong-base-model"),
            (folders["crafted"], crafted, [honest, "lab/encoder"], "base-model-not-allowed"),
            (folders["honest"], honest, [honest, "lab/encoder"], "base-model-not-allowed"),
            (folders["crafted"], honest, [folders["crafted"]], "wrong-base-model"),
        ]
    ):
        forget()
        asked = asked_for(model, fingerprint=claimed)
        (tmp_path / str(number)).mkdir()
        require_nothing_seen(recorder, tmp_path / str(number), {"base_models": listed}, asked, code)


def test_the_data_are_tokenised_once_the_charge_is_on_the_disk(folders, recorder, tmp_path):
    settings = site(tmp_path / "site", {"base_models": [folders["honest"]]}, phrase=True)
    recorder.state = settings.state
    report, blob = respond(*asked_for(folders["honest"]), settings)
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    assert PHRASE in recorder.texts
    assert {tuple(found) for found in recorder.ledgers} == {("charge",)}


@pytest.mark.parametrize("name", ["private-fedit", "private-fedsb", "private-fedsvd", "private-ffa"])
def test_the_packaged_private_recipes_keep_the_order_on_the_demo_model(recorder, tmp_path, name):
    """Under a policy that allows that base and that strategy; the same task on another base is refused unseen."""
    recipe = load(name, ["train.steps=1", "train.batch_size=4"])
    home = loaded_model(recipe.model, recipe.adapter, LABELS)
    asked = task(
        model=recipe.model, adapter=recipe.adapter, train=recipe.train.model_dump(), labels=LABELS, wire=recipe.wire,
        privacy=recipe.privacy.model_dump(), strategy=recipe.strategy.name, fingerprint=home.base.fingerprint,
        trains=tuple(build(recipe.strategy.name, recipe.strategy.options).trains(1)),
    )  # fmt: skip
    state = encode_state(
        initial_adapter(home.model, recipe.adapter, seed=0), {}, run=asked.run, round_number=1,
        strategy=asked.strategy, codec="fp32",
    )  # fmt: skip
    policy = {"base_models": ["demo"], "strategies": [recipe.strategy.name]}
    other = asked.model_copy(update={"fingerprint": "0" * 32})
    require_nothing_seen(recorder, tmp_path, policy, (other, state), "wrong-base-model")
    settings = site(tmp_path / "site", policy, phrase=True)
    recorder.state = settings.state
    report, _ = respond(asked, state, settings)
    assert (report.outcome, report.code) == ("trained", None)
    assert PHRASE in recorder.texts
    assert {tuple(found) for found in recorder.ledgers} == {("charge",)}


def test_no_file_of_the_data_is_opened_for_a_task_whose_base_is_not_allowed(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(own_rows, "read_source", lambda *given: pytest.fail("the data were read"))
    forget()
    settings = site(tmp_path / "site", {"base_models": [folders["honest"]]}, phrase=False)
    asked, state = asked_for(folders["honest"])
    for changes in ({"fingerprint": "0" * 32}, {"model": ModelSettings(id="another/model")}):
        report, _ = respond(asked.model_copy(update=changes), state, settings)
        assert report.outcome == "refused"


def test_a_retried_task_gets_its_answer_without_the_model_or_the_data(folders, tmp_path, monkeypatch):
    settings = site(tmp_path / "site", {"base_models": [folders["honest"]]}, phrase=False)
    asked = asked_for(folders["honest"])
    first = respond(*asked, settings)
    forget()
    monkeypatch.setattr("client.round.loaded_model", lambda *given: pytest.fail("the model was loaded"))
    monkeypatch.setattr(own_rows, "read_source", lambda *given: pytest.fail("the data were read"))
    again = respond(*asked, settings)
    assert (again[1], again[0].receipt) == (first[1], first[0].receipt)


def test_a_site_works_on_its_own_device_and_its_receipt_names_the_task_as_it_was_sent(folders, tmp_path):
    settings = site(tmp_path / "site", {"base_models": [folders["honest"]]}, phrase=False)
    asked, state = asked_for(folders["honest"])
    elsewhere = asked.model_copy(update={"model": asked.model.model_copy(update={"device": "cuda:7"})})
    report, blob = respond(elsewhere, state, settings.model_copy(update={"device": "cpu"}))
    assert (report.outcome, report.code) == ("trained", None)
    assert blob
    assert verified(report.receipt).task == task_digest(elsewhere, state)
