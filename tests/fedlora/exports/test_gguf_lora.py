"""A GGUF adapter, added as llama.cpp adds it to the base's own GGUF file, makes the coordinator's model."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedlora.models.location import locate
from tests.exported import distance
from tests.fedlora.exports.command import export
from tests.fedlora.exports.language_model import IDS, with_ranks
from tests.fedlora.exports.readers import added_by_llama_cpp
from tests.gguf_files import save_gguf, tiny_llama, tiny_qwen2

MODELS = {"llama": tiny_llama, "qwen2": tiny_qwen2}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@torch.no_grad()
def test_the_base_s_gguf_file_with_the_adapter_added_is_the_served_model(tmp_path, architecture, dtype):
    """Read back by transformers, which knows the order of rows by itself: grouped keys have half as many heads."""
    plain = MODELS[architecture]()
    base = save_gguf(tmp_path / "tiny.gguf", plain, architecture=architecture)
    run = with_ranks(str(base), (1, 3, 2))
    folder = run.export(tmp_path / "adapter")
    export(folder, "--kind", "gguf", "--out", tmp_path / "out", "--base", base, "--dtype", dtype)
    reader, added = added_by_llama_cpp(tmp_path / "out" / "adapter.gguf")
    assert reader.get_field("general.type").contents() == "adapter"
    assert reader.get_field("general.architecture").contents() == architecture
    assert reader.get_field("adapter.type").contents() == "lora"
    assert reader.get_field("fedlora.base.fingerprint").contents() == run.home.base.fingerprint
    whole = save_gguf(tmp_path / "whole.gguf", plain, architecture=architecture, plus=added)
    found = AutoModelForCausalLM.from_pretrained(locate(str(whole)))(IDS).logits
    served, untrained = run.served(), plain(IDS).logits
    assert distance(served, untrained) > 1e-2
    assert distance(found - untrained, served - untrained) <= 1e-3


def test_the_modelfile_names_the_base_s_own_file_and_the_adapter(tmp_path):
    base = save_gguf(tmp_path / "tiny.gguf", tiny_llama())
    folder = with_ranks(str(base), (2,)).export(tmp_path / "adapter")
    export(folder, "--kind", "gguf", "--out", tmp_path / "out", "--base", base)
    lines = (tmp_path / "out" / "Modelfile").read_text().splitlines()
    assert lines[-2:] == ["FROM ./tiny.gguf", "ADAPTER ./adapter.gguf"]
    assert all(line.startswith("#") for line in lines[:-2])
    assert "# llama-server -m tiny.gguf --lora adapter.gguf" in lines
    assert str(tmp_path) not in "".join(lines)
