"""The fingerprint of a base model is that of its weights, its configuration, and of how a text becomes ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from fedlora.config import ModelSettings
from fedlora.models.base import load_base, load_processor, locate
from fedlora.models.fingerprint import reading
from fedlora.settings import SettingsError
from tests.chats import CHATML, save_chat_model
from tests.federations import save_tiny_model

LABELS = ("a", "b")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A tiny base whose tokenizer is read from tokenizer.json as it stands there."""
    folder = Path(save_tiny_model(tmp_path_factory.mktemp("base") / "original"))
    edit(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    return folder


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edited_rules(folder: Path, change: Callable[[dict], object]) -> None:
    rules = json.loads((folder / "tokenizer.json").read_text())
    change(rules)
    (folder / "tokenizer.json").write_text(json.dumps(rules))


def replace_phrase(rules: dict) -> None:
    rule = {"type": "Replace", "pattern": {"String": "lost"}, "content": "late"}
    rules["normalizer"] = {"type": "Sequence", "normalizers": [rules["normalizer"], rule]}


def swap_two_words(rules: dict) -> None:
    words = rules["model"]["vocab"]
    words["lost"], words["late"] = words["late"], words["lost"]


def one_weight_more(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = torch.nextafter(tensors[name], torch.tensor(9.0))
    save_file(tensors, path, metadata={"format": "pt"})


ANOTHER = {
    "a weight": one_weight_more,
    "the configuration": lambda folder: edit(folder / "config.json", layer_norm_eps=1e-3),
    "the normaliser": lambda folder: edited_rules(folder, replace_phrase),
    "the vocabulary": lambda folder: edited_rules(folder, swap_two_words),
    "what is put around a text": lambda folder: edited_rules(folder, lambda rules: rules.update(post_processor=None)),
    "a token that is matched before all": lambda folder: edited_rules(
        folder, lambda rules: rules["added_tokens"].append({**rules["added_tokens"][-1], "id": 12, "content": "bag"})
    ),
    "the padding token": lambda folder: edit(folder / "tokenizer_config.json", pad_token="[MASK]"),
    "which end is cut": lambda folder: edit(folder / "tokenizer_config.json", truncation_side="left"),
    "the chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
}

THE_SAME = {
    "another folder": lambda folder: None,
    "versions and paths": lambda folder: (
        edit(folder / "config.json", transformers_version="4.0.0", _name_or_path="/elsewhere"),
        edit(folder / "tokenizer_config.json", name_or_path="/elsewhere"),
    ),
    "what each call sets": lambda folder: edited_rules(
        folder,
        lambda rules: rules.update(
            truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        ),
    ),
    "files that nothing reads": lambda folder: (folder / "README.md").write_text("hello"),
}


def fingerprints(original: Path, folder: Path, change: Callable[[Path], object]) -> tuple[str, str]:
    shutil.copytree(original, folder)
    change(folder)
    first, second = (load_base(ModelSettings(id=str(path), max_tokens=16), LABELS) for path in (original, folder))
    return first.fingerprint, second.fingerprint


@pytest.mark.parametrize("what", ANOTHER)
def test_what_decides_what_the_model_computes_changes_it(original, tmp_path, what):
    before, after = fingerprints(original, tmp_path / "copy", ANOTHER[what])
    assert before != after


@pytest.mark.parametrize("what", THE_SAME)
def test_where_and_by_what_it_was_saved_does_not(original, tmp_path, what):
    before, after = fingerprints(original, tmp_path / "copy", THE_SAME[what])
    assert before == after


def test_it_is_of_the_tokenizer_that_is_used_and_use_does_not_change_it(original):
    base = load_base(ModelSettings(id=str(original), max_tokens=16), LABELS)
    before = reading(base.processor)
    base.processor(["great crew", "the seat"], truncation=True, max_length=4, padding=True)
    assert reading(base.processor) == before == reading(AutoTokenizer.from_pretrained(original))


def test_a_vocabulary_may_hold_the_names_of_what_is_left_out():
    words = {"[PAD]": 0, "padding": 1, "truncation": 2, "dtype": 3}

    def tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")

    assert reading(tokenizer(words)) != reading(tokenizer({**words, "padding": 2, "truncation": 1}))


def test_a_tokenizer_that_is_written_in_python_is_described_by_its_class_and_settings(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "same")
    ByT5Tokenizer(pad_token="<nothing>").save_pretrained(tmp_path / "other")
    first, same, other = (ByT5Tokenizer.from_pretrained(tmp_path / name) for name in ("first", "same", "other"))
    assert not first.is_fast
    assert reading(first) == reading(same)
    assert reading(first) != reading(other)


def test_a_tokenizer_that_cannot_pad_is_refused_when_it_is_loaded(tmp_path):
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="no padding token and no end token"):
        load_processor(ModelSettings(id=str(tmp_path)))


def test_the_demo_models_own_settings_of_padding_and_length_are_no_part_of_it():
    """It comes with both: every call sets them anew."""
    tokenizer = AutoTokenizer.from_pretrained(locate("demo"))
    before = reading(tokenizer)
    tokenizer("hello", truncation=True, max_length=5)
    assert reading(tokenizer) == before


def test_two_sides_find_which_part_of_a_base_differs(tmp_path):
    first, other = (save_chat_model(tmp_path / name) for name in ("first", "other"))
    edited = AutoTokenizer.from_pretrained(other)
    edited.chat_template = CHATML.replace("assistant", "model")
    edited.save_pretrained(other)
    on = [ModelSettings(id=folder, task="causal-lm", max_tokens=8) for folder in (first, other)]
    here, there = (load_base(settings, ()) for settings in on)
    assert here.fingerprint != there.fingerprint
    assert {name for name in here.parts if here.parts[name] != there.parts[name]} == {"chat template"}
    assert list(here.parts) == ["configuration", "tokenizer", "chat template"]
